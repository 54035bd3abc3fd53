// Memory of a thread for one sweep.
//
// Included once per instruction set after simd.h (no include guard, see there).

// Handed out front to back within one call and never returned. Grows while a call asks for more, and is one
// piece again at the next. The heap in its place would cost more than the arithmetic of a run of few points.
template <class S>
class Arena {
  public:
    S* take(size_t count) {
        count = (count + 15) / 16 * 16;
        if (pieces_.empty() || used_ + count > pieces_.back().size) {
            Piece piece;
            piece.size = std::max<size_t>(count, 1 << 16);
            piece.store.reset(new S[piece.size + 64 / sizeof(S)]);
            total_ += piece.size;
            used_ = 0;
            pieces_.push_back(std::move(piece));
        }
        const uintptr_t p = reinterpret_cast<uintptr_t>(pieces_.back().store.get());
        S* values = reinterpret_cast<S*>((p + 63) / 64 * 64) + used_;
        used_ += count;
        return values;
    }
    // Plain objects, which nobody destroys: a vector's memory takes long beside the few points of a small
    // run.
    template <class T>
    T* objects(size_t count) {
        static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 64);
        T* values = reinterpret_cast<T*>(take((count * sizeof(T) + sizeof(S) - 1) / sizeof(S)));
        for (size_t i = 0; i < count; ++i) new (values + i) T();
        return values;
    }
    S* zeros(size_t count) {
        S* values = take(count);
        std::memset(values, 0, count * sizeof(S));
        return values;
    }
    void reset() {
        if (pieces_.size() > 1) {
            pieces_.clear();
            const size_t size = total_;
            total_ = 0;
            take(size);
        }
        used_ = 0;
    }

  private:
    struct Piece {
        std::unique_ptr<S[]> store;
        size_t size;
    };
    std::vector<Piece> pieces_;
    size_t used_ = 0, total_ = 0;
};

// The calling thread's, empty. A sweep asks once: a second call would hand out the first one's memory.
template <class S>
static Arena<S>& arena() {
    static thread_local Arena<S> memory;
    memory.reset();
    return memory;
}
