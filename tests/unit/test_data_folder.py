"""A folder of real motion: what is read, what is left out and why, and that what is held out trains nothing."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from rl_motion.config import UserError
from rl_motion.data.folder import (
    FLAGS,
    SHARES,
    categories,
    category,
    cut_windows,
    mirror,
    read_folder,
    split_clips,
    split_prompts,
    wording,
)
from rl_motion.motion.features import features_to_joints, joints_to_features
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, JOINT_NAMES
from rl_motion.prompts.pool import MAX_TEXT, read_prompts
from tests.real_folder import rows_and_joints, write_folder

TARGET = ("dance", "jump")
GOT_WANT_DO = r"(?s)got .*; want .*; \w+ .*"
LEFT, RIGHT = ([i for i, name in enumerate(JOINT_NAMES) if name.startswith(side)] for side in ("left", "right"))


@pytest.fixture(scope="module")
def made():
    return rows_and_joints()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return read_folder(write_folder(tmp_path_factory.mktemp("data") / "real", *made))


def test_clips_come_back_as_they_were_written(made, folder):
    rows, joints = made
    assert [clip.name for clip in folder.clips] == [row["name"] for row in rows]
    assert folder.left_out == {}
    for clip, row, joints_FJ3 in zip(folder.clips, rows, joints, strict=True):
        assert (clip.trial, clip.label, list(clip.captions)) == (row["trial"], row["cmu_desc"], row["captions"])
        np.testing.assert_array_equal(clip.joints_FJ3, joints_FJ3)


def test_the_hash_is_that_of_both_files(made, folder, tmp_path):
    rows, joints = made
    assert read_folder(write_folder(tmp_path / "same", rows, joints)).sha256 == folder.sha256
    other = [{**rows[0], "captions": ["another caption"]}, *rows[1:]]
    assert read_folder(write_folder(tmp_path / "text", other, joints)).sha256 != folder.sha256
    moved = [joints[0] + np.float32(0.1), *joints[1:]]
    assert read_folder(write_folder(tmp_path / "motion", rows, moved)).sha256 != folder.sha256


def test_what_cannot_be_used_is_left_out_and_counted(made, tmp_path):
    rows, joints = [dict(row) for row in made[0]], [array.copy() for array in made[1]]
    for number, flag in enumerate(FLAGS):
        rows[number]["flags"] = ["trimmed2", f"{flag}_somehow"]
    rows[4]["flags"] = ["trimmed2"]  # no reason to leave it out
    rows[5]["captions"] = ["", "   ", "x" * (MAX_TEXT + 1), "a\x07bell"]
    joints[6] = joints[6][:19]
    joints[7][3, 4, 1] = np.nan
    joints[8][0, 4] = joints[8][0, 1]
    found = read_folder(write_folder(tmp_path / "real", rows, joints))
    assert found.left_out == {
        **{f"flag {flag}_somehow": 1 for flag in FLAGS},
        "no caption": 1, "fewer than 20 frames": 1, "not finite": 1, "a bone of length zero": 1,
    }  # fmt: skip
    assert [clip.name for clip in found.clips] == [row["name"] for n, row in enumerate(rows) if n == 4 or n > 8]


@pytest.mark.parametrize(
    "arrays",
    [
        {"joints": None},
        {"joints": np.array([{"a": 1}], dtype=object)},
        {"joints": np.zeros((9, 21, 3), np.float32)},
        {"joints": np.zeros((9, 22, 3), np.int32)},
        {"offsets": np.array([0, 1])},
        {"offsets": np.array(0)},
        {"names": np.array([1.0])},
        {"fps": np.int64(30)},
    ],
)
def test_broken_arrays_are_refused(arrays, made, tmp_path):
    with pytest.raises(UserError, match=GOT_WANT_DO):
        read_folder(write_folder(tmp_path / "real", *made, **arrays))


@pytest.mark.parametrize("change", [lambda o: o + 1, lambda o: o[::-1], lambda o: np.minimum(o, o[-1] - 1)])
def test_offsets_that_do_not_cut_all_frames_are_refused(change, made, tmp_path):
    offsets = np.cumsum([0, *map(len, made[1])])
    with pytest.raises(UserError, match="offsets from"):
        read_folder(write_folder(tmp_path / "real", *made, offsets=change(offsets)))


@pytest.mark.parametrize(
    "line",
    [
        "not json", "[]", "{}", '{"name": "a", "trial": "b", "captions": "walk"}',
        '{"name": "a", "trial": 3, "captions": ["walk"]}', '{"name": "a", "trial": "b", "captions": [1]}',
        '{"name": "a", "trial": "b", "captions": ["walk"], "flags": null}',
    ],
)  # fmt: skip
def test_a_broken_line_is_named(line, made, tmp_path):
    folder = write_folder(tmp_path / "real", *made)
    lines = (folder / "clips.jsonl").read_text().splitlines()
    (folder / "clips.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(UserError, match=r"line 3: got .*; want .*; \w+ .*"):
        read_folder(folder)


def test_files_that_do_not_belong_together_are_refused(made, tmp_path):
    rows, joints = made
    folder = write_folder(tmp_path / "real", rows, joints)
    for lines in (rows[:-1], [rows[1], rows[0], *rows[2:]]):
        (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        with pytest.raises(UserError, match="in another order"):
            read_folder(folder)
    (folder / "clips.jsonl").unlink()
    with pytest.raises(UserError, match=GOT_WANT_DO):
        read_folder(folder)


def test_a_folder_of_which_nothing_can_be_used_is_refused(made, tmp_path):
    rows = [{**row, "flags": ["static"]} for row in made[0]]
    with pytest.raises(UserError, match="none can be used"):
        read_folder(write_folder(tmp_path / "real", rows, made[1]))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("walk, veer left", "walk"), ("Run Jump Over", "jump"), ("run/jog", "run"), ("dog (human subject)", "animal"),
        ("jumping jacks, side twists, bend over, jog", "exercise"), ("playground - climb, jump down", "climb"),
        ("basketball signals", "gesture"), ("basketball - forward dribble", "ball"), ("wash windows", "clean"),
        ("sit on high stool, stand up", "sit"), ("dance - small jetes, pirouette", "dance"), ("Empi", "fight"),
        ("a hotdog stands", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_texts_name_a_category(text, name):
    assert category([text]) == name


def test_a_trial_has_one_category_by_label_or_else_by_most_of_its_captions(folder):
    clips = [
        dataclasses.replace(folder.clips[0], trial="a", label="", captions=("he jumps", "she walks")),
        dataclasses.replace(folder.clips[0], trial="a", label="", captions=("he walks", "she strolls")),
        dataclasses.replace(folder.clips[0], trial="b", label="run", captions=("he jumps",)),
    ]
    assert categories(clips) == {"a": "walk", "b": "run"}


def test_no_trial_is_in_two_splits_and_none_is_lost(folder):
    splits = split_clips(folder.clips, TARGET)
    trials = {name: {clip.trial for clip in clips} for name, clips in splits.items()}
    assert sum(map(len, splits.values())) == len(folder.clips)
    assert sum(map(len, trials.values())) == len(set().union(*trials.values()))
    of_trial = categories(folder.clips)
    for name, found in trials.items():
        assert all((of_trial[trial] in TARGET) == name.startswith("target") for trial in found)
    for kind in (*TARGET, "walk"):  # the share of every category, not of all together
        domain = "target" if kind in TARGET else "source"
        for part, share in SHARES.items():
            assert sum(of_trial[trial] == kind for trial in trials[f"{domain}/{part}"]) == round(9 * share)


def test_splits_do_not_depend_on_the_order_of_clips(folder):
    one, other = split_clips(folder.clips, TARGET), split_clips(folder.clips[::-1], TARGET[::-1])
    assert {name: {c.name for c in clips} for name, clips in one.items()} == {
        name: {c.name for c in clips} for name, clips in other.items()
    }


@pytest.mark.parametrize("target", [(), ("swim",), ("walk", "run", "sit", "jump", "dance")])
def test_targets_that_leave_no_source_or_no_target_are_refused(target, folder):
    with pytest.raises(UserError, match=GOT_WANT_DO):
        split_clips(folder.clips, target)


def test_a_split_without_clips_is_refused(folder):
    few = [clip for clip in folder.clips if clip.label != "dance" or clip.trial == "dance_1"]
    with pytest.raises(UserError, match=r"no clip for target/val"):
        split_clips(few, ["dance"])


def test_no_held_out_prompt_is_worded_as_a_caption_of_training(folder):
    splits = split_clips(folder.clips, TARGET)
    training = {wording(p.text) for d in ("source", "target") for p in split_prompts(splits, f"{d}/train", 40)}
    assert wording("Someone  WALKS!") in training
    for split in ("source/val", "source/test", "target/val", "target/test"):
        held_out = split_prompts(splits, split, 40)
        assert held_out
        assert not training & {wording(p.text) for p in held_out}
        # Negative control: people say the same of what trains and of what is held out.
        assert training & {wording(text) for clip in splits[split] for text in clip.captions}


def test_a_caption_that_only_a_mirrored_motion_has_is_training_too(folder):
    splits = split_clips(folder.clips, TARGET)
    [prompt, *_] = split_prompts(splits, "target/test", 40)
    first, *others = splits["source/train"]
    splits |= {"source/train": (dataclasses.replace(first, mirrored=(prompt.text.upper(),)), *others)}
    assert prompt.text not in {p.text for p in split_prompts(splits, "target/test", 40)}


def test_prompts_have_the_length_of_a_window_and_the_group_of_their_trial(folder, tmp_path):
    splits = split_clips(folder.clips, TARGET)
    prompts = split_prompts(splits, "target/train", 30)
    lengths = {text: len(clip.joints_FJ3) - 1 for clip in splits["target/train"] for text in clip.captions[:1]}
    assert {p.group for p in prompts} == set(TARGET)
    assert all(p.length == min(lengths[p.text], 30) for p in prompts if p.text in lengths)
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{p.text}#{p.length}\n" for p in prompts))
    assert [p.id for p in read_prompts(file, 40)] == [p.id for p in prompts]


def test_windows_cover_their_clip_and_are_cuts_of_its_features(folder):
    clip = max(folder.clips, key=lambda c: len(c.joints_FJ3))
    whole_FD = joints_to_features(clip.joints_FJ3, own_heading=True)
    windows = cut_windows([clip], 16, 16)
    assert len(windows.length_N) == -(-len(whole_FD) // 16)
    seen = np.zeros(len(whole_FD), bool)
    for cut_FD, length in zip(windows.features_NFD, windows.length_N, strict=True):
        [start] = [s for s in range(len(whole_FD)) if np.array_equal(whole_FD[s : s + 16], cut_FD)]
        seen[start : start + length] = True
    assert seen.all()
    assert windows.captions == (clip.captions,) * len(windows.length_N)


def test_a_short_clip_is_one_window_padded_with_zeros(folder):
    clip = min(folder.clips, key=lambda c: len(c.joints_FJ3))
    windows = cut_windows([folder.clips[1], clip], 60, 30)
    rows = len(clip.joints_FJ3) - 1
    assert (windows.length_N[1], windows.clip_N.tolist()) == (rows, [0, 1])
    assert windows.features_NFD.shape == (2, 60, 263)
    assert not windows.features_NFD[1, rows:].any()
    assert windows.features_NFD[1, :rows].any(axis=1).all()


def test_the_floor_is_the_clips_and_the_proportions_are_the_projects(folder):
    joints_BFJ3 = features_to_joints(torch.from_numpy(cut_windows(folder.clips[:3], 60, 60).features_NFD)).numpy()
    wanted = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1)
    for clip, padded_FJ3 in zip(folder.clips[:3], joints_BFJ3, strict=True):
        joints_FJ3 = padded_FJ3[: len(clip.joints_FJ3) - 1]
        assert abs(joints_FJ3[..., 1].min()) < 0.02
        assert np.abs(HUMANML3D.bone_lengths(joints_FJ3[None].astype(float)) - wanted).max() < 1e-3
        assert clip.joints_FJ3[..., 1].min() > 0.1  # control: as recorded it is not on the floor


def test_the_mirror_image_is_a_body_that_does_the_same_on_the_other_side(folder):
    joints_FJ3 = folder.clips[0].joints_FJ3
    mirrored_FJ3 = mirror(joints_FJ3)
    np.testing.assert_array_equal(mirrored_FJ3[:, LEFT, 0], -joints_FJ3[:, RIGHT, 0])
    np.testing.assert_array_equal(mirrored_FJ3[:, LEFT, 1:], joints_FJ3[:, RIGHT, 1:])
    np.testing.assert_array_equal(mirror(mirrored_FJ3), joints_FJ3)


def test_a_mirrored_motion_is_told_of_as_such_or_not_used(made, tmp_path):
    rows = [dict(row) for row in made[0][:3]]
    rows[0] |= {"captions": ["he lifts the left hand"]}
    rows[1] |= {"captions": ["he lifts the left hand"], "captions_mirrored": ["he lifts the right hand"]}
    found = read_folder(write_folder(tmp_path / "real", rows, made[1][:3]))
    windows = cut_windows(found.clips, 60, 60, mirrored=True)
    assert windows.clip_N.tolist() == [0, 1, 1, 2, 2]
    assert windows.captions[1:3] == (("he lifts the left hand",), ("he lifts the right hand",))
    assert windows.captions[3] == windows.captions[4]
    assert not np.array_equal(windows.features_NFD[3], windows.features_NFD[4])


def test_real_motion_beside_the_checkout_can_be_read(shared_dir):
    found = read_folder(shared_dir / "data" / "cmu22")
    assert len(found.clips) + sum(found.left_out.values()) == 399
    assert found.left_out["flag spike"] == 3
    splits = split_clips(found.clips, ("animal", "dance", "fight", "jump"))
    assert min(len(split_prompts(splits, f"{d}/test", 60)) for d in ("source", "target")) > 32
    assert set(categories(found.clips).values()) == {
        "animal", "dance", "exercise", "climb", "sit", "clean", "gesture", "fight", "ball", "jump", "run", "walk",
    }  # fmt: skip
