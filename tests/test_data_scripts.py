"""The shipped concepts can be drawn again, and what they are told by never occurs in the base set's strangers."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from stamina_lite.diffusion.concepts import ASSETS

pytest.importorskip("dicebear", reason="needs the build packages: pip install 'stamina-lite[data]'")
pytest.importorskip("resvg_py", reason="needs the build packages: pip install 'stamina-lite[data]'")

import concept_sets  # noqa: E402
import named  # noqa: E402
import people  # noqa: E402
import scenes  # noqa: E402
import waterfall_tables as tables  # noqa: E402
import waterfalls  # noqa: E402

MANIFEST = json.loads((ASSETS / "manifest.json").read_text())


def pixels(path_or_file) -> np.ndarray:
    with Image.open(path_or_file) as image:
        return np.array(image)


@pytest.mark.parametrize("name", ["person-08", "person-19", "falls-06", "tune-falls-2", "tune20-person-04"])
def test_a_concept_drawn_again_is_the_shipped_one(name):
    """Two pictures of it, each drawn before and after others: order plays no part."""
    (identity,) = [i for members in concept_sets.sets().values() for i in members if i.name == name]
    for use, number in (("train", 7), ("references", 20)):
        _, seeds = concept_sets.FOLDERS[use]
        drawn = concept_sets.encode(concept_sets.draw(identity, seeds[number])[0])
        file = ASSETS / MANIFEST["concepts"][name][use]["folder"] / f"{number:02}.webp"
        assert np.array_equal(pixels(io.BytesIO(drawn)), pixels(file))
        if MANIFEST["drawn_with"] == concept_sets.versions():  # another Pillow may pack the same pixels differently
            assert drawn == file.read_bytes()
        other = concept_sets.draw(identity, seeds[number] + 1)[0]
        assert not np.array_equal(other, pixels(file))


def test_the_manifest_is_what_the_tables_say():
    assert MANIFEST["sets"] == concept_sets.views()
    for members in concept_sets.sets().values():
        for identity in members:
            entry = MANIFEST["concepts"][identity.name]
            assert json.loads(json.dumps(concept_sets.description(identity))).items() <= entry.items()


def test_check_finds_an_altered_picture(tmp_path, monkeypatch):
    few = {"tune5": concept_sets.sets()["tune5"][:2]}
    monkeypatch.setattr(concept_sets, "sets", lambda: {"mini50": [], **few})
    concept_sets.write(tmp_path)
    assert concept_sets.check(tmp_path, 2) == []
    victim = tmp_path / "tune5" / "tune-falls-1" / "01.webp"
    Image.fromarray(pixels(victim) // 2).save(victim)
    assert concept_sets.check(tmp_path, 2) == ["tune5/tune-falls-1/01.webp"]


def test_reserved_looks_never_occur_in_strangers():
    rng = np.random.default_rng(0)
    entries = MANIFEST["concepts"].values()
    heads = {(e["reserved"]["style"], e["reserved"]["head"]) for e in entries if e["kind"] == "person"}
    falls = [e["reserved"] for e in entries if e["kind"] == "waterfall"]
    landmarks, seeds = {f["landmark"] for f in falls}, {f["seed"] for f in falls}
    rocks = {f["rock"] for f in falls if "rock" in f}
    assert (len(heads), len(landmarks), len(seeds), len(rocks)) == (34, 10, 37, 3)

    base = [people.random_person(rng) for _ in range(2000)]
    shown = {(p.style, p.options["hairVariant"]) for p in base}
    assert not shown & heads
    assert {style for style, _ in heads} <= {style for style, _ in shown}  # those styles are drawn, with other heads

    scenery = [waterfalls.random_falls(rng) for _ in range(2000)]
    assert not {f.landmark for f in scenery} & landmarks and len({f.landmark for f in scenery}) == 4
    assert not {f.rock for f in scenery} & rocks and len({f.rock for f in scenery}) == 6
    assert not {f.seed for f in scenery} & seeds


def test_base_pictures_follow_from_their_number():
    first, caption = scenes.base_picture(11)
    scenes.base_picture(12)
    again, caption_again = scenes.base_picture(11)
    assert np.array_equal(first, again) and caption == caption_again
    assert first.shape == (128, 128, 3) and not np.array_equal(first, scenes.base_picture(12)[0])


def test_acquaintances_come_again_under_their_names():
    rng = np.random.default_rng(5)
    met = {}
    for draw, looks in ((named.someone, lambda p: p.options), (named.somewhere, lambda f: f)):
        drawn = [draw(rng) for _ in range(8000)]
        strangers = [who for who, name in drawn if not name]
        assert 0.35 < len(strangers) / len(drawn) < 0.45
        for who, name in drawn:
            if name:
                assert met.setdefault(name, looks(who)) == looks(who)
        assert len({str(looks(who)) for who in strangers}) > 0.9 * len(strangers)
    assert set(met) == set(named.names()) and len(met) == named.PEOPLE + named.FALLS
    assert len({str(look) for look in met.values()}) > 0.99 * len(met)


def test_known_waterfalls_have_landmarks_but_are_no_concepts():
    known = [named.known_falls(k) for k in range(named.FALLS)]
    concepts = [*waterfalls.concept_falls(), *waterfalls.tune5_falls(), *waterfalls.tune20_falls()]
    assert {f.landmark for f in concepts} < {f.landmark for f in known}
    assert not {f.rock for f in concepts} & set(tables.RESERVED_ROCKS) & {f.rock for f in known}
    assert not {f.seed for f in concepts} & {f.seed for f in known}

    def looks(f):
        return f.landmark, f.paint, f.kind, f.count, f.rock

    assert not {looks(f) for f in concepts} & {looks(f) for f in known}


def test_names_tell_nothing_else():
    """A name is no other word of the captions, and no caption names a concept."""
    words = {w for k in range(300) for w in scenes.base_picture(k, 16)[1].split()}
    assert words <= set(scenes.words())
    used = words & set(named.names())
    assert len(used) > 100
    assert not [w for w in words - used if not w.isalpha()] and len(words - used) < 100
