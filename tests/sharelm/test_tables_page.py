"""`docs/tables.md` is what the schemas say today."""

from pathlib import Path

from sharelm.tables import TABLES
from sharelm.tables.describe import page


def test_the_page_is_current():
    written = (Path(__file__).parents[2] / "docs/tables.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m sharelm.tables.describe > docs/tables.md"


def test_every_column_is_listed_with_its_meaning():
    sections = page().split("\n## ")
    for table, schema in TABLES.items():
        (section,) = [text for text in sections if text.startswith(f"{table}\n")]
        for name in [*schema.names, "study", "step"]:
            assert f"| `{name}` |" in section
