"""`load_audio`: windows, rates, formats, silence, corrupt files, and speakers that stay apart."""

import sys

import media_trees as make
import numpy as np
import pytest
import torch

from mclnf_fast.data import load_audio
from mclnf_fast.data.readers.decoding.sound import resample
from mclnf_fast.errors import InputError

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra media)")


def one(path, **options) -> np.ndarray:
    """The first window as it was recorded, [L], full scale at 1."""
    return load_audio(path, **options).test.values[0, :, 0].numpy() * 2 - 1


def groups(part) -> set[str]:
    return {name.split("/")[-1].split("-")[0] for name in part.names}


def test_a_window_is_the_first_second_in_0_to_1(tmp_path):
    wave = make.tone(1.5, 16000)
    sets = load_audio(make.sound(tmp_path / "a.wav", wave, subtype="FLOAT"))
    assert tuple(sets.test.values.shape) == (1, 16000, 1)
    assert sets.test.rate == 16000.0
    np.testing.assert_allclose(sets.test.values[0, :, 0], (wave[:16000] + 1) / 2, atol=1e-7)
    assert any("longer than the window" in note for note in sets.notes)
    assert one(tmp_path / "a.wav", seconds=0.25).shape == (4000,)
    peak = one(tmp_path / "a.wav", peak=True)
    assert np.abs(peak).max() == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("ending", ["flac", "wav", "ogg", "mp3", "m4a"])
def test_formats(tmp_path, ending):
    wave = make.tone(1.2, 16000)
    got = one(make.sound(tmp_path / f"a.{ending}", wave))
    lag = np.correlate(got[4000:12000], wave[4000 - 1500 : 12000 + 1500], "valid").argmax() - 1500  # coders delay
    assert abs(lag) <= 1200
    shifted = wave[4000 + lag : 12000 + lag]
    assert np.sqrt(np.mean((got[4000:12000] - shifted) ** 2)) < 0.02
    exact = ending in ("flac", "wav")
    assert not exact or np.abs(got - wave[:16000]).max() < 2e-4


def test_channels_are_averaged_and_beyond_full_scale_is_scaled_down(tmp_path):
    wave = make.tone(1.0, 16000)
    make.sound(tmp_path / "a.wav", np.stack([wave, 0.5 * wave], 1), subtype="FLOAT")
    np.testing.assert_allclose(one(tmp_path / "a.wav"), 0.75 * wave, atol=1e-6)
    make.sound(tmp_path / "b.wav", 5 * wave, subtype="FLOAT")
    np.testing.assert_allclose(one(tmp_path / "b.wav"), 2 * wave, atol=1e-3)
    assert any("beyond full scale" in note for note in load_audio(tmp_path / "b.wav").notes)


@pytest.mark.parametrize(
    ("own", "rate"), [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 16000), (16001, 16000)]
)
def test_another_rate_is_resampled(tmp_path, own, rate):
    path = make.sound(
        tmp_path / "a.wav", make.tone(2.0, own, 700) + make.tone(2.0, own, 3000, 0.2), own, subtype="FLOAT"
    )
    expected = make.tone(2.0, rate, 700) + make.tone(2.0, rate, 3000, 0.2)
    sets = load_audio(path)
    assert any(f"resampled from {own} to {rate}" in note for note in sets.notes)
    got = sets.test.values[0, :, 0].numpy() * 2 - 1
    # The first window begins with an edge; the end of the window has samples beyond it to lean on.
    assert np.abs(got - expected[:16000])[100:].max() < 2e-3


@pytest.mark.parametrize("start", [10000, 44100, 61234])
def test_a_window_within_a_file_of_another_rate_keeps_its_time(tmp_path, start):
    wave = make.tone(3.0, 44100, 733.3)
    wave[:start] = 0
    path = make.sound(tmp_path / "a.wav", wave, 44100, subtype="FLOAT")
    got = one(path, seconds=0.5, start="sound")
    begin = start // 882 - 1  # frames of 20 ms, one of them before the first that sounds
    times = begin * 882 / 44100 + np.arange(8000) / 16000
    assert np.abs(got - 0.5 * np.sin(2 * np.pi * 733.3 * times))[800:].max() < 2e-3


def test_a_loudest_window_near_the_beginning_keeps_its_time(tmp_path):
    wave = make.tone(22150 / 44100, 44100, 733.3)
    wave[:100] = 0  # half a second at 44.1 kHz is 22,050 samples
    got = one(make.sound(tmp_path / "a.wav", wave, 44100, subtype="FLOAT"), seconds=0.5, start="loudest")
    times = 100 / 44100 + np.arange(8000) / 16000
    assert np.abs(got - 0.5 * np.sin(2 * np.pi * 733.3 * times))[100:-100].max() < 2e-3


def test_resampling_passes_below_the_lower_rates_half_and_stops_above():
    for hertz, gain in ((100, 1.0), (5000, 1.0), (7000, 1.0), (9000, 0.0), (15000, 0.0)):
        got = resample(make.tone(0.5, 44100, hertz, 1.0), 44100, 16000)[2000:6000]
        assert np.sqrt(2 * np.mean(got**2)) == pytest.approx(gain, abs=0.01)
    steady = resample(np.ones(4410, np.float32), 44100, 16000)
    assert len(steady) == 1600
    np.testing.assert_allclose(steady[100:-100], 1.0, atol=2e-3)
    np.testing.assert_array_equal(resample(np.arange(5, dtype=np.float32), 8000, 8000), np.arange(5))


def test_a_resampled_length_is_rounded_up():
    for count, rate, new in ((7, 8000, 12000), (8, 8000, 12000), (1, 16000, 8000), (10, 48000, 44100)):
        assert len(resample(np.ones(count, np.float32), rate, new)) == -(-count * new // rate)


@pytest.mark.parametrize("ending", ["wav", "aiff"])
def test_a_file_that_lost_its_last_samples_is_torn(tmp_path, ending):
    path = make.sound(tmp_path / f"a.{ending}", make.tone(0.1, 16000))
    path.write_bytes(path.read_bytes()[:-4])  # two samples of 1600: less than what is passed over in an mp3
    with pytest.raises(InputError, match=r"bytes were promised"):
        load_audio(path)


def test_where_a_window_begins(tmp_path):
    quiet, loud = make.tone(0.5, 16000, loud=0.05), make.tone(0.5, 16000, loud=0.8)
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    path = make.sound(tmp_path / "a.wav", np.concatenate([hiss, quiet, loud, hiss]), subtype="FLOAT")
    assert np.abs(one(path, seconds=0.4)).max() < 0.01
    heard = one(path, seconds=0.4, start="sound")
    assert np.abs(heard[640:]).max() == pytest.approx(0.05, abs=0.001)
    assert np.abs(heard[:320]).max() < 0.01  # one frame before the onset
    assert np.sqrt(np.mean(one(path, seconds=0.5, start="loudest") ** 2)) == pytest.approx(0.8 / 2**0.5, abs=0.01)
    loudest = one(
        make.sound(tmp_path / "b.wav", np.repeat(np.concatenate([quiet, loud]), 2), 32000), start="loudest", seconds=0.4
    )
    assert np.sqrt(np.mean(loudest**2)) == pytest.approx(0.8 / 2**0.5, abs=0.02)


def test_silence_before_the_sound_is_stepped_over_and_noted(tmp_path):
    wave = np.concatenate([np.zeros(24000, np.float32), make.tone(1.0, 16000)])
    sets = load_audio(make.sound(tmp_path / "a.flac", wave), seconds=0.5)
    assert any("first window is silent: a.flac" in note for note in sets.notes)
    assert float(sets.test.values.std()) > 0.1


def test_a_window_shorter_than_the_sound_before_it_is_never_silent(tmp_path):
    for k, (rate, seconds) in enumerate(((16000, 0.005), (44100, 0.005), (16000, 1.0))):
        wave = np.concatenate([np.zeros(2 * rate, np.float32), make.tone(0.009, rate)])  # ends within a frame of 20 ms
        path = make.sound(tmp_path / f"{k}.wav", wave, rate, subtype="FLOAT")
        for start in ("first", "sound", "loudest"):
            assert float(np.ptp(one(path, seconds=seconds, start=start))) > 0.2


def test_a_silent_file_is_skipped_or_refused(tmp_path, caplog):
    for k in range(4):
        make.sound(tmp_path / f"{k}.wav", make.tone(0.2, 16000, 300 + 50 * k))
    make.sound(tmp_path / "zero.wav", np.zeros(3200, np.float32))
    make.sound(tmp_path / "offset.wav", np.full(3200, 0.3, np.float32))
    sets = load_audio(tmp_path, seconds=0.1, test=2)
    names = {*sets.train.names, *sets.validation.names, *sets.test.names}
    assert names == {"0.wav", "1.wav", "2.wav", "3.wav"}
    assert any("skipped as unusable: " in note and "zero.wav" in note and "offset.wav" in note for note in sets.notes)
    assert "zero.wav: must hold sound, is silent" in caplog.text
    assert bool(torch.isfinite(sets.train.values).all())
    with pytest.raises(InputError, match=r"(zero|offset).wav: must hold sound, is silent"):
        load_audio(tmp_path, seconds=0.1, test=2, strict=True)


def test_shorter_clips_are_padded_with_their_last_value(tmp_path):
    wave = make.tone(0.3, 16000, 441.0)
    sets = load_audio(make.sound(tmp_path / "a.wav", wave, subtype="FLOAT"), seconds=0.5)
    got = sets.test.values[0, :, 0].numpy() * 2 - 1
    np.testing.assert_allclose(got[:4800], wave, atol=1e-6)
    np.testing.assert_allclose(got[4800:], wave[-1], atol=1e-6)
    assert any("shorter than the window, padded with its last value: a.wav" in note for note in sets.notes)


def test_several_windows_of_a_file(tmp_path):
    wave = make.tone(1.25, 16000) * np.linspace(0.1, 1, 20000, dtype=np.float32)
    make.sound(tmp_path / "a.wav", wave, subtype="FLOAT")
    sets = load_audio(tmp_path, seconds=0.25, windows_per_file=8)
    assert sets.test.names == ("a.wav@0s", "a.wav@0.25s", "a.wav@0.5s", "a.wav@0.75s", "a.wav@1s")
    np.testing.assert_allclose(sets.test.values.flatten() * 2 - 1, wave, atol=1e-6)
    assert len(load_audio(tmp_path, seconds=0.25, windows_per_file=2).test) == 2


def test_corrupt_files_are_skipped_with_their_names(tmp_path, caplog):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16000).astype(np.float32)
    endings = ("flac", "wav", "m4a", "mp3", "aiff")
    for k, ending in enumerate(endings):
        make.sound(tmp_path / f"x{k}.{ending}", noise[::-1].copy())
        make.sound(tmp_path / f"y{k}.{ending}", noise[::-1].copy())
        make.sound(tmp_path / f"{k}.{ending}", noise)
    for name in ("0.flac", "1.wav", "2.m4a", "3.mp3", "4.aiff"):
        make.tear(tmp_path / name)
    (tmp_path / "5.wav").write_bytes(b"")
    (tmp_path / "6.mp3").write_text("no sound at all")
    make.sound(tmp_path / "7.wav", np.zeros((0, 1), np.float32))
    make.sound(tmp_path / "8.wav", np.full(100, np.nan, np.float32), subtype="FLOAT")
    sets = load_audio(tmp_path, seconds=0.5, test=6)
    assert {*sets.train.names, *sets.validation.names, *sets.test.names} == {
        f"{x}{k}.{e}" for x in "xy" for k, e in enumerate(endings)
    }
    for name in ("0.flac", "1.wav", "2.m4a", "3.mp3", "4.aiff", "5.wav", "6.mp3", "7.wav", "8.wav"):
        assert sum(f"skipped {tmp_path / name}: " in record.getMessage() for record in caplog.records) == 1
        with pytest.raises(InputError, match=name):
            load_audio(tmp_path / name)
    with pytest.raises(InputError, match="must"):
        load_audio(tmp_path, strict=True)
    with pytest.raises(InputError, match="must hold sound files"):
        load_audio(make.picture(tmp_path / "pictures" / "a.png").parent)


def test_librispeech_by_its_folders(tmp_path):
    make.librispeech(tmp_path)
    for root in (tmp_path, tmp_path / "LibriSpeech"):
        sets = load_audio(root, seconds=0.1, validation=2)
        assert sets.title.startswith("LibriSpeech")
        assert (groups(sets.train), groups(sets.test)) == ({"101", "102"}, {"105", "106"})
        assert groups(sets.validation) <= {"103", "104"}
        assert (len(sets.train), len(sets.validation), len(sets.test)) == (4, 2, 4)


def test_two_parts_of_librispeech(tmp_path):
    make.librispeech(tmp_path, ("dev-clean", "test-other"))
    sets = load_audio(tmp_path, seconds=0.1)
    assert groups(sets.train) | groups(sets.validation) == {"101", "102"}
    assert groups(sets.test) == {"103", "104"}
    assert any("validation set is trained on" in note for note in sets.notes)


@pytest.mark.parametrize("flat", [True, False])
def test_speakers_of_the_test_are_unheard_in_training(tmp_path, flat):
    make.librispeech(tmp_path, ("test-clean",) if not flat else ())
    for speaker in range(200, 206) if flat else ():
        for k in range(3):
            make.sound(tmp_path / str(speaker) / f"{k}.wav", make.tone(0.1, 16000, 2.0 * speaker))
    for seed in range(4):
        sets = load_audio(tmp_path, seconds=0.1, seed=seed)
        speakers = [{name.split("/")[-2 if flat else -3] for name in part.names} for part in (sets.train, sets.test)]
        assert not speakers[0] & speakers[1]
        assert len(speakers[1]) == (2 if flat else 1)
        assert any("unseen in training: " in note for note in sets.notes)
    mixed = load_audio(tmp_path, seconds=0.1, by_folder=False, test=0.5)
    assert {name.split("/")[-2] for name in mixed.train.names} & {name.split("/")[-2] for name in mixed.test.names}


def test_a_count_takes_as_many_speakers_as_it_needs(tmp_path):
    for speaker in "abc":
        for k in range(3):
            make.sound(tmp_path / speaker / f"{k}.wav", make.tone(0.1, 16000, 300))
    sets = load_audio(tmp_path, seconds=0.1, test=4, validation=0)
    assert (len(sets.test), len(sets.train)) == (4, 3)
    assert not {name[0] for name in sets.test.names} & {name[0] for name in sets.train.names}
    with pytest.raises(InputError, match="test: must be at most 6 so that a speaker"):
        load_audio(tmp_path, seconds=0.1, test=7)


def test_voxceleb(tmp_path):
    make.voxceleb(tmp_path, "audio")
    sets = load_audio(tmp_path, seconds=0.1)
    assert sets.title.startswith("VoxCeleb2")
    assert {name.split("/")[2] for name in sets.test.names} == {"id00004", "id00005"}
    assert {name.split("/")[2] for name in (*sets.train.names, *sets.validation.names)} == {
        "id00001",
        "id00002",
        "id00003",
    }
    part = load_audio(tmp_path / "dev", seconds=0.1)
    assert len({name.split("/")[1] for name in part.test.names}) == 1
    assert not {name.split("/")[1] for name in part.test.names} & {name.split("/")[1] for name in part.train.names}


def test_options_out_of_range_are_refused(tmp_path):
    make.sound(tmp_path / "a.wav", make.tone(0.1, 16000))
    for options, message in (
        ({"seconds": 0}, "seconds"), ({"seconds": float("nan")}, "seconds"), ({"seconds": 1e6}, "seconds"),
        ({"rate": 5}, "rate"), ({"start": "middle"}, "start"), ({"windows_per_file": 0}, "windows_per_file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{message}: must"):
            load_audio(tmp_path, **options)


@pytest.mark.parametrize("module", ["soundfile", "av"])
def test_a_missing_extra_is_named_and_no_reason_to_skip_a_file(tmp_path, monkeypatch, module):
    for name in ("a.wav", "b.wav", "a.m4a", "b.m4a"):
        make.sound(tmp_path / name, make.tone(0.1, 16000))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"^reading .* needs the package {module}: pip install av soundfile soxr$"):
        load_audio(tmp_path, seconds=0.1)


def test_real_speech(shared_data):
    sets = load_audio(shared_data("audio/librispeech"))
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (16, 4, 5)
    assert len(groups(sets.test)) == 1
    assert not groups(sets.test) & (groups(sets.train) | groups(sets.validation))
    assert float(sets.test.values.std((1, 2)).min()) > 0.005
    music = load_audio(shared_data("audio/siren"), seconds=3.0, start="sound")
    assert tuple(music.test.values.shape) == (1, 48000, 1)
