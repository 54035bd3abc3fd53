#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace {

cudaError_t last_error = cudaSuccess;

struct Copy {
    void* to;
    std::vector<unsigned char> bytes;
};
std::vector<Copy> on_the_way;

}  // namespace

void emulation::set_last_error(cudaError_t error) { last_error = error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
    if (error == cudaSuccess) return "no error";
    if (error == cudaErrorCooperativeLaunchTooLarge) return "too many blocks in cooperative launch";
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    if (kind == cudaMemcpyDeviceToHost) {
        const auto* begin = static_cast<const unsigned char*>(from);
        on_the_way.push_back({to, {begin, begin + bytes}});
    } else {
        memcpy(to, from, bytes);
    }
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
    memset(to, byte, bytes);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    for (const Copy& copy : on_the_way) memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    on_the_way.clear();
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
namespace {

int from_environment(const char* name, int otherwise) {
    const char* value = getenv(name);
    return value && *value ? std::stoi(value) : otherwise;
}

}  // namespace

// Of compute capability 9.0, unless MCLNF_EMULATION_SHARED gives a block less memory; four multiprocessors,
// unless MCLNF_EMULATION_PROCESSORS gives another number.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    if (attribute == cudaDevAttrMultiProcessorCount) {
        *value = from_environment("MCLNF_EMULATION_PROCESSORS", 4);
        return cudaSuccess;
    }
    *value = from_environment("MCLNF_EMULATION_SHARED", 227 << 10);
    if (attribute == cudaDevAttrMaxSharedMemoryPerMultiprocessor) *value += 1 << 10;
    return cudaSuccess;
}
size_t emulation::blocks_on_multiprocessor(size_t shared_bytes) {
    int all = 0;
    cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0);
    return static_cast<size_t>(all) / (shared_bytes + (1 << 10));
}
size_t emulation::blocks_together(size_t shared_bytes) {
    int processors = 0;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0);
    return static_cast<size_t>(processors) * blocks_on_multiprocessor(shared_bytes);
}
