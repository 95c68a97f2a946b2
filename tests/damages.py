"""Ways in which a release is damaged, and what `check` calls each."""

import json
import shutil

TRAIN, VALIDATION = "human_annotated/train_set", "human_annotated/validation_set"
UNANNOTATED = "no_human_annotated"
ROWS = {"train": 48, "validation": 33}


def numbered(root, folder, place=0):
    """N of the place-th pair of a folder of AffectNet+ that has an expression, or of any where nothing has."""
    ids = sorted(int(path.stem) for path in (root / folder / "annotations").iterdir())
    with_expression = [n for n in ids if (annotation(root, folder, n)["human-label"] or 0) < 8]
    return with_expression[place]


def annotation(root, folder, n):
    return json.loads((root / folder / "annotations" / f"{n}.json").read_text())


def edited(*keys, to):
    """A damage: one value of the first training annotation is another."""

    def damage(root):
        n = numbered(root, TRAIN)
        content = annotation(root, TRAIN, n)
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to(inner[keys[-1]]) if callable(to) else to
        (root / TRAIN / "annotations" / f"{n}.json").write_text(json.dumps(content))
        return f"{TRAIN}/annotations/{n}.json"

    return damage


def overwritten(folder, change, part="images"):
    """A damage: the bytes of one file are others."""

    def damage(root):
        n = numbered(root, folder, 1)
        (path,) = (root / folder / part).glob(f"{n}.*")
        path.write_bytes(change(path.read_bytes()))
        return str(path.relative_to(root))

    return damage


def of_size(content, width, height):
    """The JPEG whose header says another size."""
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[place + 4 :]


def without(folder, part):
    """A damage: one file is not there; the other of its pair is what is named."""

    def damage(root):
        n = numbered(root, folder, 2)
        (lost,) = (root / folder / part).glob(f"{n}.*")
        lost.unlink()
        (other,) = (root / folder).glob(f"*/{n}.*")
        return str(other.relative_to(root))

    return damage


def another_subset(root):
    return edited("subset", to=lambda subset: 2 - subset if subset != 1 else 0)(root)


def same_image_in(folder):
    def damage(root):
        n = numbered(root, folder)
        shutil.copy(root / TRAIN / f"images/{numbered(root, TRAIN)}.jpg", root / folder / f"images/{n}.jpg")
        return f"{folder}/images/{n}.jpg"

    return damage


META = "meta-data"
# what happened -> the damage, which returns the file that is to be named; the kind; words that are to be said
DAMAGES = {
    "annotation lost": (without(TRAIN, "annotations"), "image without annotation", "has no annotation"),
    "image lost": (without(VALIDATION, "images"), "annotation without image", "has no image"),
    "image lost, unannotated": (without(UNANNOTATED, "images"), "annotation without image", "has no image"),
    "annotation empty": (overwritten(TRAIN, lambda _: b"", "annotations"), "unreadable annotation", "is empty"),
    "annotation cut": (
        overwritten(UNANNOTATED, lambda content: content[:99], "annotations"), "unreadable annotation", "not parse"
    ),
    "metadata lost": (edited(META, to={}), "unreadable annotation", 'lacks the key "age"'),
    "label 11": (edited("human-label", to=11), "value out of range", '11 as "human-label"'),
    "page for an image": (overwritten(VALIDATION, lambda _: b"<html>"), "unreadable image", "no JPEG or PNG"),
    "image empty": (overwritten(UNANNOTATED, lambda _: b""), "unreadable image", "is empty"),
    "image cut": (overwritten(TRAIN, lambda content: content[:-200]), "truncated image", "its end is missing"),
    "image cut and ended": (
        overwritten(UNANNOTATED, lambda content: content[: len(content) * 6 // 10] + b"\xff\xd9"), "truncated image",
        "lacks a part of its pixels",
    ),
    "size of another image": (
        overwritten(TRAIN, lambda content: of_size(content, 64, 96)), "truncated image", "lacks a part of its pixels"
    ),
    "size of no image": (
        overwritten(TRAIN, lambda content: of_size(content, 11_000, 11_000)), "unreadable image",
        "says 11000 x 11000 pixels, more than its [0-9,]+ bytes can hold",
    ),
    "image with a hole": (
        overwritten(TRAIN, lambda content: content[:700] + bytes(600) + content[1300:]), "truncated image", "has a hole"
    ),
    "valence 3": (edited(META, "valence", to=3), "value out of range", r'has 3 in "valence", outside \[-1, 1\]'),
    "arousal -1.5": (edited(META, "arousal", to=-1.5), "value out of range", 'has -1.5 in "arousal"'),
    "age 121": (edited(META, "age", to=121), "value out of range", r'has 121 in "age", outside \[0, 120\]'),
    "gender 1.4": (edited(META, "gender", to={"female": 1.4, "male": -0.4}), "value out of range",
                   r'has 1.4 in "gender", outside \[0, 1\]'),
    "race sums to half": (edited(META, "race", to=lambda scores: {name: 1 / 12 for name in scores}),
                          "value out of range", '"race" that sum to 0.5, not'),
    "landmarks of another picture": (
        edited(META, "landmark-68", to=lambda points: [3 * value for value in points]), "value out of range",
        r'of the 68 points of "landmark-68" far outside the picture of 64 x 64 pixels, one at \(\d+, \d+\)',
    ),
    "subset of another rank": (another_subset, "rank-rule violation", 'by "subset", but its label .* has rank'),
    "training image in validation": (same_image_in(VALIDATION), "duplicate", f"is the same image as .*{TRAIN}/images"),
    "training image unannotated": (same_image_in(UNANNOTATED), "duplicate", f"is the same image as .*{TRAIN}/images"),
}  # fmt: skip
