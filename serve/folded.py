"""What stands folded below the answer: many pictures at once, and how programs ask."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from serve.entries import Entry

MANY = """<details class="lf-fold" id="many"><summary>Many pictures, as a table</summary>
<p><label class="lf-choose"><input type="file" multiple accept="image/*" id="many-files">
Choose pictures</label> <span id="many-state" role="status" class="lf-quiet"></span>
<a id="many-csv" download="answers.csv" hidden>Save as CSV</a></p>
<table id="many-table" hidden><thead><tr><th scope="col">picture</th><th scope="col">file</th>
<th scope="col">class</th><th scope="col">probability</th></tr></thead><tbody></tbody></table></details>"""


def code(entry: Entry) -> str:
    """curl, Python and Triton's client; the browser puts its own address in."""
    key = entry.key
    here = '<span class="lf-origin">http://127.0.0.1:7860</span>'
    curl = f"curl --data-binary @photo.jpg '{here}/v1/classify?artifact={quote(key, safe='')}'"
    python = (
        f'import lfdeploy\n\nwith lfdeploy.Client("{here}") as client:\n'
        f'    print(client.predict("photo.jpg", artifact="{escape(key)}").label)'
    )
    triton = (
        "from pathlib import Path\n\nimport numpy as np\n"
        "from tritonclient.http import InferenceServerClient, InferInput\n\n"
        'files = np.array([Path("photo.jpg").read_bytes()], dtype=object)\n'
        'given = InferInput("encoded", [1], "BYTES")\ngiven.set_data_from_numpy(files)\n'
        'client = InferenceServerClient("<span class="lf-host">127.0.0.1:7860</span>")\n'
        f'print(client.infer("{escape(key)}", [given]).as_numpy("probabilities"))'
    )
    blocks = "".join(
        f"<h3>{name}</h3><pre tabindex='0'><code>{text}</code></pre>"
        for name, text in (("Shell", curl), ("Python", python), ("Triton's client", triton))
    )
    return (
        f'<details class="lf-fold" data-artifact="{escape(key)}"><summary>Use it from code</summary>{blocks}'
        '<p class="lf-quiet">All routes: <a class="lf-docs" href="docs">the API</a>.</p></details>'
    )
