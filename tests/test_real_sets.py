"""The real set as its halves lie on disk, ordered as the embedded ones, and learned by `bench`."""

import json
from itertools import zip_longest

import pytest
from real_pictures import photo

from stamina_lite import cli
from stamina_lite.diffusion.concepts import concepts
from stamina_lite.errors import UserError


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Four people and three waterfalls, three pictures each, as the scripts lay them out."""
    data = tmp_path_factory.mktemp("real") / "data"
    for half, kind, count in (("celebs25", "celeb", 4), ("waterfalls25", "waterfall", 3)):
        for k in range(1, count + 1):
            for root in (half, f"{half}-references"):
                folder = data / root / f"{kind}-{k:02d}"
                folder.mkdir(parents=True)
                for n in range(2):
                    (folder / f"{n:02d}.jpg").write_bytes(photo(len(root) + 100 * k + n))
        (data / half / "sources.csv").write_text("id\n")
    return data


def test_the_real_set_is_ordered_like_the_embedded_ones(halves):
    def names(*more):
        return [c.name for c in concepts("celeba-landmarks50", *more, data=halves)]

    people, falls = [f"celeb-{k:02d}" for k in range(1, 5)], [f"waterfall-{k:02d}" for k in range(1, 4)]
    assert names() == [name for pair in zip_longest(people, falls) for name in pair if name]
    assert names("people-first") == people + falls and names("waterfalls-first") == falls + people
    assert names("waterfalls-first", 4) == falls + people[:1]
    mixed = names("alternate", None, 3)
    kinds = ["celeb", "waterfall"] * 3 + ["celeb"]
    assert mixed != names() and sorted(mixed) == people + falls and [n.split("-")[0] for n in mixed] == kinds
    assert names("people-first", None, 3) == sorted(mixed, key=lambda n: n[0] != "c")
    assert concepts(halves) == concepts("celeba-landmarks50", data=halves), "or named by its folder, as in notebooks"
    for concept in concepts("celeba-landmarks50", data=halves):
        assert len(concept.images) == len(concept.references) == 2
        assert {f.parents[1].name for f in concept.references} <= {"celebs25-references", "waterfalls25-references"}


def test_whole_halves_are_mixed_as_mini50_is(tmp_path):
    for half, kind in (("celebs25", "celeb"), ("waterfalls25", "waterfall")):
        for k in range(1, 26):
            (tmp_path / half / f"{kind}-{k:02d}").mkdir(parents=True)
            (tmp_path / half / f"{kind}-{k:02d}" / "00.jpg").write_bytes(photo(k))
    for order in ("alternate", "people-first", "waterfalls-first"):
        for shuffle in (0, 2):
            mini = [c.name.replace("falls", "waterfall") for c in concepts("mini50", order, None, shuffle)]
            real = [c.name for c in concepts("celeba-landmarks50", order, None, shuffle, tmp_path)]
            assert real == [name.replace("person", "celeb") for name in mini]


def test_bench_learns_the_real_set_from_its_folder(halves, tiny_folder, tmp_path, capsys):
    bench = ["bench", "celeba-landmarks50", "--method", "lora", "--base", tiny_folder, "--out", tmp_path / "run"]
    bench += ["--steps", "1", "--batch", "2", "--rank", "2", "--device", "cpu", "--concepts", "2", "--pictures", "2"]
    assert cli.main([str(a) for a in [*bench, "--data", halves, "--order", "waterfalls-first"]]) == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["tasks"] == ["waterfall-01", "waterfall-02"]
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert about["set"] == "celeba-landmarks50" and about["order"] == "waterfalls-first"
    capsys.readouterr()
    bench[bench.index("--out") + 1] = tmp_path / "none"
    for more, told in (
        ([], "celeba-landmarks50 is read from a folder: give --data DIR"),
        (["--data", tmp_path], "celebs25 is missing: python data_scripts/celeba_hq.py builds it"),
        (["--data", halves, "--concepts", "8"], "8 concepts asked for, celeba-landmarks50 has 7"),
    ):
        assert cli.main([str(a) for a in [*bench, *more]]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="mini10 is no set that is read from a folder: leave --data out"):
        concepts("mini10", data=halves)
