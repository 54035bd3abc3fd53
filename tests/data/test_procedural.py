"""Procedural faces, talking heads and voices: same seed same bits, shapes, sets, and that they are what they claim."""

import numpy as np
import pytest
import torch

from mclnf_fast.data import procedural_audio, procedural_faces, procedural_video
from mclnf_fast.errors import InputError


def whole(sets) -> torch.Tensor:
    return torch.cat([sets.train.values, sets.validation.values, sets.test.values])


def test_faces_by_default_are_48_of_178_pixels():
    sets = procedural_faces()
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (32, 4, 12)
    values = whole(sets)
    assert tuple(values.shape) == (48, 178, 178, 3)
    flat = values.flatten(1)
    apart = torch.cdist(flat, flat) / flat.shape[1] ** 0.5 + torch.eye(48)
    assert float(apart.min()) > 0.05  # no two alike
    # A family: one mean picture explains more than a gray one would; and each has fine texture of its own.
    spread = flat.std(0).mean()
    assert float(spread) < float(flat.std(1).mean())
    fine = values[:, 1:-1, 1:-1] - 0.25 * (
        values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
    )
    assert float(fine.square().mean().sqrt()) > 0.01


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    for make, options in (
        (procedural_faces, {"size": 32}),
        (procedural_video, {"size": 16, "frames": 3}),
        (procedural_audio, {"seconds": 0.2}),
    ):
        one = make(3, test=1, validation=1, seed=5, **options)
        assert torch.equal(whole(one), whole(make(3, test=1, validation=1, seed=5, **options)))
        assert not torch.equal(whole(one), whole(make(3, test=1, validation=1, seed=6, **options)))
        # The first of a larger family.
        assert torch.equal(whole(one)[:2], whole(make(2, test=1, validation=0, seed=5, **options)))
        assert one.train.names[0] == make(2, test=1, validation=0, seed=5, **options).train.names[0]


def test_a_face_is_one_face_at_any_size():
    large, small = (whole(procedural_faces(2, size, test=1, validation=0)) for size in (128, 64))
    shrunk = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert float((shrunk - small).square().mean().sqrt()) < 0.04


def test_heads_move_and_stay_themselves():
    sets = procedural_video(4, test=1, validation=1)
    values = whole(sets)
    assert tuple(values.shape) == (4, 24, 64, 64, 3)
    assert sets.test.rate == 12.0
    step = (values[:, 1:] - values[:, :-1]).square().mean((2, 3, 4)).sqrt()
    assert float(step.min()) > 0.002  # every frame is new
    assert float(step.max()) < 0.12  # and near the one before
    one = values[:, 12]
    others = torch.cdist(one.flatten(1), one.flatten(1)) + 1e9 * torch.eye(4)
    within = (values[:, 0] - one).flatten(1).norm(dim=1)
    assert bool((within < others.amin(1)).all())


def test_voices_have_pitch_and_pauses_and_test_speakers_are_unheard():
    sets = procedural_audio(16, test=4, validation=4)
    values = whole(sets)[..., 0].numpy() * 2 - 1
    assert values.shape == (16, 16000)
    assert sets.test.rate == 16000.0
    speakers = [{name.split()[1] for name in part.names} for part in (sets.train, sets.validation, sets.test)]
    assert not (speakers[0] & speakers[2])
    assert not (speakers[1] & speakers[2])
    assert bool((np.abs(values).max(1) > 0.3).all())
    assert float(np.abs(values.mean(1)).max()) < 0.02
    frames = values[:, : 16000 // 320 * 320].reshape(16, -1, 320)
    loud = np.sqrt((frames**2).mean(-1))
    assert float(np.median(loud.min(1) / loud.max(1))) < 0.05  # pauses
    # The loudest 64 ms of a voice repeats itself at its pitch, and a speaker's clips have about one pitch.
    periodic, pitch = [], []
    for clip, level in zip(values, loud, strict=True):
        at = min(int(level.argmax()) * 320, 16000 - 1024)
        piece = clip[at : at + 1024] - clip[at : at + 1024].mean()
        again = np.correlate(piece, piece, "full")[1023:]
        periodic.append((again[64:200] / again[0]).max())
        pitch.append(np.log(64 + again[64:200].argmax()))
    assert float(np.median(periodic)) > 0.6
    logs = np.array(pitch).reshape(4, 4)
    assert float(np.median(logs, 1).std()) > 1.5 * float(np.median(np.abs(logs - np.median(logs, 1, keepdims=True))))
    power = np.abs(np.fft.rfft(values)) ** 2
    assert float(power[:, :4000].sum() / power.sum()) > 0.8  # most of it below 4 kHz


def test_options_out_of_range_are_refused():
    for call, message in (
        (lambda: procedural_faces(0), "count"),
        (lambda: procedural_faces(4), "test"),
        (lambda: procedural_faces(seed=-1), "seed"),
        (lambda: procedural_faces(size=8), "size"),
        (lambda: procedural_video(frames=0), "frames"),
        (lambda: procedural_video(size=4), "size"),
        (lambda: procedural_audio(seconds=0.0), "seconds"),
        (lambda: procedural_audio(rate=10), "rate"),
        (lambda: procedural_audio(seconds=float("nan")), "seconds"),
    ):
        with pytest.raises(InputError, match=message):
            call()
