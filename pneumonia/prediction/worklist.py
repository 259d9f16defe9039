"""Rows as a worklist: one HTML page with thumbnails, the most urgent first, that loads nothing."""

import base64
import html
import io
import os
from collections.abc import Sequence

from PIL import Image

from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.limits import UnreadableImageError
from pneumonia.prediction.batch import SCORED, Row
from pneumonia.prediction.paths import file_named

_THUMBNAIL = Preprocessing(144, "pad")

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; color: #222; margin: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
form { position: sticky; top: 0; background: #fff; padding: .6rem 0; border-bottom: 1px solid #ccc;
       display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: flex; gap: 1rem; padding: .6rem 0; border-bottom: 1px solid #eee; }
li[hidden] { display: none; }
li > div { min-width: 0; overflow-wrap: anywhere; }
img, .none { flex: none; width: 144px; height: 144px; background: #000; }
b { font-size: 1.05rem; }
.none { background: #eee; }
progress { width: 9rem; max-width: 100%; height: .9rem; display: block; accent-color: #456; }
small { color: #555; }
"""

_SCRIPT = """
const form = document.querySelector("form"), items = [...document.querySelectorAll("li")];
function show() {
  const words = form.search.value.toLowerCase().split(/\\s+/);
  const kinds = new Set([...form.querySelectorAll(":checked")].map(box => box.value));
  let shown = 0;
  for (const item of items) {
    const text = item.textContent.toLowerCase();
    item.hidden = !(kinds.has(item.dataset.kind) && words.every(word => text.includes(word)));
    shown += !item.hidden;
  }
  document.querySelector("output").textContent = `${shown} of ${items.length} shown`;
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""


def worklist(rows: Sequence[Row], positive: str) -> str:
    """Write a page of rows, with a thumbnail of each file that can be read.

    First the positive images by falling probability, then those without a probability, which
    nobody has read yet, then the negative ones by falling probability.

    Args:
        rows: As ``score`` yields them.
        positive: The label of the positive class.
    """
    ordered = sorted(rows, key=lambda row: _urgency(row, positive))
    kinds = {_kind(row): None for row in ordered}
    boxes = "".join(
        f'<label><input type="checkbox" value="{html.escape(kind)}" checked> {html.escape(kind)} '
        f"({sum(_kind(row) == kind for row in rows):,})</label>"
        for kind in kinds
    )
    models = ", ".join(sorted({f"{row['model']}, version {row['version']}" for row in rows}))
    items = "\n".join(map(_item, ordered))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Worklist</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Worklist of {len(rows):,} images</h1>
<p>{html.escape(models)}. For research and teaching; not a medical device.</p>
<form><label>Search <input type="search" name="search"></label>{boxes}<output></output></form>
<ol>
{items}
</ol>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _urgency(row: Row, positive: str) -> tuple[int, float, str]:
    if row["status"] not in SCORED:
        return 1, 0.0, row["path"]
    return (0 if row["label"] == positive else 2), -row["probability"], row["path"]


def _kind(row: Row) -> str:
    return str(row["label"] or row["status"])


def _item(row: Row) -> str:
    # A file name need not be UTF-8.
    path = os.fsencode(row["path"]).decode("utf-8", errors="backslashreplace")
    shown = html.escape(path)
    reason = f"<br>{html.escape(row['status'])}: {html.escape(row['reason'])}" * bool(row["reason"])
    score = ""
    if row["status"] in SCORED:
        score = (
            f"<br>probability {row['probability']:.3f}, threshold {row['threshold']:g}"
            f'<progress value="{row["probability"]:.4f}"></progress>'
        )
    kind = html.escape(_kind(row))
    return (
        f'<li data-kind="{kind}">{_thumbnail(row)}<div><b>{kind}</b>{reason}{score}'
        f"<br><small>{shown}</small></div></li>"
    )


def _thumbnail(row: Row) -> str:
    try:
        grey = decode(file_named(row["path"]).read_bytes(), _THUMBNAIL)
    except (UnreadableImageError, OSError, ValueError):
        return '<div class="none"></div>'
    encoded = io.BytesIO()
    Image.fromarray(grey).save(encoded, "JPEG", quality=80)
    content = base64.b64encode(encoded.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{content}" alt="" loading="lazy">'
