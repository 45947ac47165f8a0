"""People of CelebA-HQ, built from small copies on disk, whole and spoilt."""

import hashlib
import shutil
import zipfile

import celeba_hq
import numpy as np
import pytest
from PIL import Image
from real_pictures import full_disk, middle, photo, rows_of, run, said, tree

from stamina_lite.diffusion.concepts import concepts

pytestmark = pytest.mark.usefixtures("small_sets")
PEOPLE = {12: 16, 7: 18, 5: 15, 9: 14, 3: 18}  # identity number: pictures


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """CelebAMask-HQ in small, its people mixed, and identities of pictures it has not got too."""
    root = tmp_path_factory.mktemp("celeba")
    order = [person for turn in range(18) for person, n in PEOPLE.items() if turn < n]
    lines, names = ["idx    orig_idx  orig_file"], ["200000.jpg 3"]
    (root / "CelebAMask-HQ/CelebA-HQ-img").mkdir(parents=True)
    for idx, person in enumerate(order):
        name = f"{7 * idx + 1:06d}.jpg"
        lines.append(f"{idx:<10d}{7 * idx:<10d}{name}")
        names.append(f"{name} {person}")
        (root / f"CelebAMask-HQ/CelebA-HQ-img/{idx}.jpg").write_bytes(photo(idx))
    (root / "CelebAMask-HQ" / celeba_hq.MAPPING).write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(names) + "\n")
    with zipfile.ZipFile(root / "CelebAMask-HQ.zip", "w") as archive:
        for file in sorted((root / "CelebAMask-HQ").rglob("*.*")):
            archive.write(file, file.relative_to(root))
        archive.writestr("../escaped.jpg", b"x")
    return root, {person: [str(k) for k, p in enumerate(order) if p == person] for person in PEOPLE}


@pytest.fixture
def celeba(original, tmp_path):
    """The same, to be spoilt: the command, and who is on which pictures."""
    copy = tmp_path / "celeba"
    shutil.copytree(original[0], copy)
    argv = ["--from", copy / "CelebAMask-HQ", "--identities", copy / "identity_CelebA.txt", "--size", "24"]
    return [*argv, "--out", tmp_path / "out"], copy, original[1]


def test_the_people_with_most_pictures_are_built_in_order(celeba, tmp_path, capsys):
    argv, copy, people = celeba
    run(celeba_hq, argv)
    assert "celebs25: 3 concepts, 46 pictures to learn from, 6 to measure with" in capsys.readouterr().out
    expected = {"celeb-01": people[3], "celeb-02": people[7], "celeb-03": people[12]}  # 18, 18 and 16 pictures
    rows = rows_of(tmp_path / "out/celebs25/sources.csv")
    assert {c: [r["id"] for r in rows if r["concept"] == c] for c in expected} == expected
    for row in rows:
        source, built = (
            (copy / f"CelebAMask-HQ/CelebA-HQ-img/{row['id']}.jpg").read_bytes(),
            tmp_path / "out" / row["file"],
        )
        assert row["source_sha256"] == hashlib.sha256(source).hexdigest()
        assert row["sha256"] == hashlib.sha256(built.read_bytes()).hexdigest()
        pixels = np.asarray(Image.open(built)).astype(int)
        assert pixels.shape == (24, 24, 3) and np.abs(pixels - middle(source, 24)).mean() < 4
        assert np.abs(pixels - middle(photo(1000), 24)).mean() > 30
    found = concepts(tmp_path / "out" / "celebs25")
    assert [(c.token, len(c.images)) for c in found] == [("<celeb-01>", 15), ("<celeb-02>", 15), ("<celeb-03>", 16)]
    assert [len(c.references) for c in found[:2]] == [3, 3] and not {*found[0].images} & {*found[0].references}
    assert found[2].references == found[2].images  # one picture more is nothing to measure with: it is learned from
    assert len([*tmp_path.rglob("escaped.jpg")]) == 0


def test_zip_list_and_another_run_give_the_same(celeba, tmp_path, capsys):
    argv, copy, _ = celeba
    lists = tmp_path / "lists" / "celebs25.csv"
    run(celeba_hq, [*argv, "--write-list", lists])
    there = tree(tmp_path / "out")
    stamp = (tmp_path / "out/celebs25").stat().st_mtime_ns
    run(celeba_hq, argv)  # what is there is left as it is
    assert tree(tmp_path / "out") == there and (tmp_path / "out/celebs25").stat().st_mtime_ns == stamp
    argv[1], argv[-1] = copy / "CelebAMask-HQ.zip", tmp_path / "from-zip"
    run(celeba_hq, argv)
    run(celeba_hq, ["--from", copy / "CelebAMask-HQ", "--list", lists, "--size", "24", "--out", tmp_path / "from-list"])
    assert tree(tmp_path / "from-zip") == there == tree(tmp_path / "from-list") and len(there) == 53
    assert not [*tmp_path.rglob("escaped.jpg")] and not [*tmp_path.rglob("*.part")]
    fewer = lists.read_text().splitlines()
    lists.write_text("\n".join(fewer[:1] + fewer[19:37]) + "\n")
    run(celeba_hq, ["--from", copy / "CelebAMask-HQ", "--list", lists, "--size", "24", "--out", tmp_path / "one"])
    assert {r["concept"] for r in rows_of(tmp_path / "one/celebs25/sources.csv")} == {"celeb-02"}


def test_a_set_that_is_there_and_another_is_kept(celeba, tmp_path, capsys):
    argv, _, _ = celeba
    run(celeba_hq, argv)
    there = tree(tmp_path / "out")
    for change, told in (
        (lambda: None, "is another set than this command makes"),
        ((tmp_path / "out/celebs25/celeb-01/03.jpg").unlink, "are missing or have been changed"),
    ):
        change()
        size = "24" if "missing" in told else "32"
        assert celeba_hq.main([str(a) for a in [*argv, "--size", size]]) == 2
        assert told in capsys.readouterr().err
    del there["celebs25/celeb-01/03.jpg"]
    assert tree(tmp_path / "out") == there
    shutil.rmtree(tmp_path / "out/celebs25")  # as if killed between its two moves: references alone
    (tmp_path / "out/celebs25-references/celeb-01/99.jpg").write_bytes(photo(1))
    (tmp_path / "out/celebs25.part/made").mkdir(parents=True)
    run(celeba_hq, argv)
    assert {*tree(tmp_path / "out")} == {*there, "celebs25/celeb-01/03.jpg"}


NAMES = "identity_CelebA.txt"


def overwrite(name, change):
    return lambda copy: (copy / name).write_bytes(change((copy / name).read_bytes()))


@pytest.mark.parametrize(
    ("spoil", "more", "told"),
    [
        (lambda c: shutil.rmtree(c / "CelebAMask-HQ"), [], "has no folder CelebA-HQ-img: give CelebAMask-HQ or"),
        (lambda c: shutil.rmtree(c / "CelebAMask-HQ/CelebA-HQ-img"), [], "has no folder CelebA-HQ-img"),
        (lambda c: (c / "CelebAMask-HQ" / celeba_hq.MAPPING).unlink(), [], "mapping.txt is missing: the copy is not"),
        (overwrite("CelebAMask-HQ/" + celeba_hq.MAPPING, lambda b: b[3:]), [], "expected idx orig_idx orig_file"),
        (overwrite("CelebAMask-HQ/" + celeba_hq.MAPPING, lambda b: b[:-12]), [], "line 82: 0 0, expected idx orig_idx"),
        (overwrite(NAMES, lambda b: b[: b.index(b"\n", 600)]), [], "identity_CelebA.txt lacks "),
        (overwrite(NAMES, lambda b: b.replace(b" 12\n", b" twelve\n")), [], "expected a line as 000001.jpg 2880"),
        (overwrite(NAMES, lambda b: b.replace(b" 5\n", b" 6\n", 1).replace(b" 12\n", b" 99\n", 2)), [],
         "only 2 people have 15 pictures or more, 3 are needed"),
        (lambda c: (c / "CelebAMask-HQ/CelebA-HQ-img/1.jpg").unlink(), [], "1.jpg is missing: the copy is not whole"),
        (overwrite("CelebAMask-HQ/CelebA-HQ-img/1.jpg", lambda b: b[:500]), [], "picture 1 in "),
        (overwrite("CelebAMask-HQ/CelebA-HQ-img/1.jpg", lambda b: b"<html>"), [], "is not whole or no picture"),
        (lambda c: None, ["--identities", "none.txt"], "No such file or directory: 'none.txt'"),
        (lambda c: None, ["--from", "{copy}/identity_CelebA.txt"], "is no zip, or cut off"),
        (overwrite("CelebAMask-HQ.zip", lambda b: b[:-30]), ["--from", "{copy}/CelebAMask-HQ.zip"], "is no zip, or"),
        (overwrite("CelebAMask-HQ.zip", lambda b: b.replace(photo(4)[300:500], bytes(200))),
         ["--from", "{copy}/CelebAMask-HQ.zip"], "4.jpg in "),
        (lambda c: None, ["--list", "none.csv"], "No such file or directory: 'none.csv'"),
    ],
)  # fmt: skip
def test_copies_that_are_not_whole_are_refused_in_one_line(celeba, capsys, spoil, more, told):
    argv, copy, _ = celeba
    spoil(copy)
    argv += [a.replace("{copy}", str(copy)) for a in more]
    assert told in said(capsys, celeba_hq, *argv)


def test_who_has_fourteen_pictures_makes_room(celeba, tmp_path):
    argv, copy, people = celeba
    overwrite(NAMES, lambda b: b.replace(b" 12\n", b" 99\n", 2))(copy)
    run(celeba_hq, argv)
    rows = rows_of(tmp_path / "out/celebs25/sources.csv")
    assert [r["id"] for r in rows if r["concept"] == "celeb-03"] == people[5]


def test_what_was_not_given_is_asked_for(celeba, capsys):
    argv, _, _ = celeba
    assert "give --from" in said(capsys, celeba_hq, *argv[2:])
    assert "nothing says who is on the pictures: give --identities" in said(capsys, celeba_hq, *argv[:2], *argv[4:])


def test_lists_are_checked(celeba, tmp_path, capsys):
    argv, copy, _ = celeba
    file = tmp_path / "list.csv"
    run(celeba_hq, [*argv, "--write-list", file])
    shutil.rmtree(tmp_path / "out")
    header, *lines = file.read_text().splitlines()
    first = lines[0].split(",")
    for changed, told in (
        ([f"{first[0]},{first[1]},{'0' * 64}", *lines[1:]], f"its sha256 is {first[2]}, expected {'0' * 64}"),
        ([f"../../x,{first[1]},{first[2]}", *lines[1:]], "expected celeb-01, an id and a sha256"),
        ([f"celeb-01,../../x,{first[2]}", *lines[1:]], "expected celeb-01, an id and a sha256"),
        ([*lines, lines[3]], "twice"),
        (lines[:14], "lists 14 pictures of celeb-01: expected 15 to 79"),
        ([], "lists no pictures"),
        ([*lines[:-1], "celeb-03"], "is cut off at line"),
        ([f"{first[0]},99999,{first[2]}", *lines[1:]], "99999.jpg is missing"),
    ):
        file.write_text("\n".join([header, *changed]) + "\n")
        assert told in said(capsys, celeba_hq, *argv, "--list", file)
    file.write_text("\n".join(lines))
    assert "has no column concept" in said(capsys, celeba_hq, *argv, "--list", file)


def test_a_full_disk_leaves_no_half_of_a_set(celeba, tmp_path, capsys):
    argv, _, _ = celeba
    with full_disk(900):
        assert celeba_hq.main([str(a) for a in argv]) == 2
    assert "celeba_hq.py: [Errno 27] File too large\n" in capsys.readouterr().err
    assert tree(tmp_path / "out") == {}
    run(celeba_hq, argv)
