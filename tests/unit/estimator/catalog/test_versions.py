# SPDX-License-Identifier: Apache-2.0
import hashlib
import subprocess
import sys
from importlib import resources

from finetree_estimator.catalog import names, price_book, versions
from finetree_estimator.evidence.calibration import EMPTY


def test_each_part_carries_the_hash_of_its_content():
    parts = versions.parts(price_book.packaged(), EMPTY.part)

    assert set(parts) == {"engine", "catalog", "price_book", "calibration"}
    assert all(len(part.sha256) == 64 for part in parts.values())
    assert [name for name, part in parts.items() if not part.date] == ["calibration"]
    assert parts["price_book"].sha256 == hashlib.sha256(names.raw("prices.csv")).hexdigest()


def test_another_price_book_is_another_revision():
    header = ",".join(price_book.COLUMNS)
    mine = price_book.read(f"{header}\nmine/t4,t4,me,0.1,USD,2026-11-01,mine\n".encode(), "mine")
    before, after = versions.parts(price_book.packaged(), EMPTY.part), versions.parts(mine, EMPTY.part)

    assert after["price_book"].sha256 != before["price_book"].sha256
    assert (after["engine"], after["catalog"]) == (before["engine"], before["catalog"])
    assert (after["price_book"].part_id, after["price_book"].date) == ("mine", "2026-11-01")


def test_the_formulas_import_no_grpc_and_no_proto():
    code = (
        "import finetree_estimator.estimate, sys; print(sorted({'grpc', 'google', 'finetree_api'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout.strip() == "[]"


def test_the_engine_s_hash_covers_every_room_that_the_engine_is_made_of():
    code = (
        "import finetree_estimator.estimate, sys;"
        "print(*(name.partition('.')[2].replace('.', '/') for name, module in sys.modules.items()"
        "if name.startswith('finetree_estimator.') and not hasattr(module, '__path__')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    rooms = {module.partition("/")[0] for module in found.stdout.split() if "/" in module}

    assert {"memory", "timing", "methods"} < rooms
    assert rooms <= set(versions.FORMULAS)


def test_the_catalog_s_hash_covers_every_data_file_but_the_prices():
    files = {file.name for file in resources.files("finetree_estimator.catalog.data").iterdir() if file.is_file()}
    data = {name for name in files if name.endswith((".csv", ".json"))}

    assert data - set(versions.CATALOG) == {"prices.csv"}
