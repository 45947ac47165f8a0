"""How renditions are drawn, from a small icon set of the same layout; the real sets come by npm when rebuilding."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("resvg_py", reason="needs the build packages: pip install 'stamina-lite[data]'")

import rendition_styles as styles  # noqa: E402
import rendition_tables as tables  # noqa: E402
import renditions  # noqa: E402

RED = '<path fill="#f00" d="M0 0h20v10H0z"/>'
LINE = '<path fill="currentColor" d="M0 4h20v2H0z"/>'


@pytest.fixture
def icons(tmp_path, monkeypatch):
    """Every set has a wide red bar called octopus, an alias of it, and a turned copy that is not the same drawing."""
    for name in tables.ICON_SETS:
        body = LINE if name == "emojione-monotone" else RED
        content = {
            "icons": {"octopus": {"body": body, "width": 20, "height": 10}},
            "aliases": {"eight-arms": {"parent": "octopus"}, "upside-down": {"parent": "octopus", "rotate": 2}},
            "width": 20,
            "height": 20,
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "icons.json").write_text(json.dumps(content))
    monkeypatch.setattr(renditions, "ICONS", tmp_path)
    renditions.icons.cache_clear()
    yield
    renditions.icons.cache_clear()


def test_a_drawing_is_padded_to_a_square_and_found_by_what_sets_agree_on(icons):
    drawn = np.asarray(renditions.drawing("noto", "oct-opus"))
    size = renditions.DRAWN
    assert drawn.shape == (size, size, 4) and (drawn[size // 2, size // 2] == (255, 0, 0, 255)).all()
    assert drawn[size // 8, size // 2, 3] == drawn[-size // 8, size // 2, 3] == 0  # above and below the bar
    assert np.array_equal(drawn, np.asarray(renditions.drawing("noto", "eightarms")))
    assert (np.asarray(renditions.drawing("emojione-monotone", "octopus"))[size // 2, size // 2, :3] == 0x22).all()
    assert renditions.artists("eight-arms") == [*tables.ICON_SETS] and renditions.artists("upside-down") == []


def test_a_picture_follows_from_its_class_set_and_number(icons):
    one, style = renditions.picture("octopus", "noto", 3)
    again, _ = renditions.picture("octopus", "noto", 3)
    assert one.size == (64, 64) and style in styles.STYLES
    assert np.array_equal(np.asarray(one), np.asarray(again))
    others = [renditions.picture("octopus", *which) for which in (("noto", 4), ("twemoji", 3))]
    assert all(not np.array_equal(np.asarray(one), np.asarray(image)) for image, _ in others)
    assert len({renditions.picture("octopus", "noto", k)[1] for k in range(len(styles.STYLES))}) == len(styles.STYLES)


def test_test_artists_are_two_whole_groups_and_never_share_alike(icons):
    groups = renditions.test_groups("octopus")
    assert len(groups) == 2 and groups == renditions.test_groups("octopus")
    seen = set()
    for sheet, rows in renditions.class_sheets("octopus").values():
        assert sheet.size == (512, 64 * -(-len(rows) // 8))
        for icon_set, _, split in rows:
            assert (split == "test") == (tables.ICON_SETS[icon_set].group in groups)
            seen.add(icon_set)
    assert seen == {*tables.ICON_SETS}
    assert not groups & {s.group for s in tables.ICON_SETS.values() if s.share_alike}


@pytest.mark.parametrize("name", styles.STYLES)
def test_every_technique_shows_the_drawing(name):
    """A disc in two tones: where it is the picture is another than where it is not, whatever the technique."""
    y, x = np.indices((128, 128)) - 63.5
    art = np.zeros((128, 128, 4))
    art[np.hypot(x, y) < 40] = (0.8, 0.1, 0.1, 1)
    art[(np.hypot(x, y) < 40) & (np.abs(x) < 4)] = (0.1, 0.1, 0.1, 1)
    for seed in range(4):
        drawn = np.clip(styles.STYLES[name](art, np.random.default_rng(seed)), 0, 1)
        other = np.clip(styles.STYLES[name](np.zeros_like(art), np.random.default_rng(seed)), 0, 1)
        assert drawn.shape == (128, 128, 3) and np.isfinite(drawn).all()
        assert np.abs(drawn - other)[np.hypot(x, y) < 44].mean() > 0.02, seed
        assert not np.array_equal(drawn, np.clip(styles.STYLES[name](art, np.random.default_rng(seed + 9)), 0, 1))


def test_tables_hold_no_class_twice():
    parts = [{renditions.key(n) for n in part} for part in (tables.CLASSES, tables.TUNING, tables.ALIKE)]
    assert [len(parts[0]), len(parts[1])] == [200, 50] and len(set.union(*parts)) == sum(map(len, parts))


def test_missing_icon_sets_are_named_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(renditions, "ICONS", tmp_path)
    monkeypatch.setattr("sys.argv", ["renditions.py", "--out", str(tmp_path / "out")])
    assert renditions.main() == 2
    said = capsys.readouterr().err
    assert "npm install --prefix build/icons @iconify-json/noto@1.2.9" in said and not (tmp_path / "out").exists()


def test_a_set_is_written_and_checked(icons, tmp_path, monkeypatch):
    monkeypatch.setattr(renditions, "CLASSES", ["octopus"])
    monkeypatch.setattr(renditions, "TUNING", [])
    renditions.write(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert set(about["classes"]["octopus"]) == {"pictures", "share-alike"}
    assert renditions.check(tmp_path / "out", 1) == []
    file = tmp_path / "out" / "share-alike" / "octopus.webp"
    Image.new("RGB", Image.open(file).size).save(file)
    assert renditions.check(tmp_path / "out", 1) == ["octopus"]
