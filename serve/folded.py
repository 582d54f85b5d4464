"""What stands folded below the answer: many pictures at once, and how programs ask."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from serve.examples import Example

MANY = """<details class="lf-fold" id="many"><summary>Many pictures, as a table</summary>
<p><label class="lf-choose"><input type="file" multiple accept="image/*" id="many-files">
Choose pictures</label> <button type="button" id="many-stop" class="lf-button" hidden>Stop</button>
<span id="many-state" role="status" class="lf-quiet">Or drop several anywhere; up to 10 MB each.</span>
<a id="many-csv" download="answers.csv" hidden>Save as CSV</a></p>
<table id="many-table" hidden><thead><tr><th scope="col">picture</th><th scope="col">file</th>
<th scope="col">class</th><th scope="col">probability</th></tr></thead><tbody></tbody></table></details>"""


HERE, HOST = (
    '<span class="lf-origin">http://127.0.0.1:7860</span>',
    '<span class="lf-host">127.0.0.1:7860</span>',
)
KEY = '<span class="lf-key">ARTIFACT</span>'
CODED_KEY = '<span class="lf-coded-key">ARTIFACT</span>'
#: Where the server asks for a token, as a program gives it: an option of curl, a header, an argument.
GIVEN = {
    False: ("", "", "", ""),
    True: (
        "-H 'Authorization: Bearer TOKEN' ",
        ', "Authorization": "Bearer TOKEN"',
        ', token="TOKEN"',
        ', headers={"Authorization": "Bearer TOKEN"}',
    ),
}


def snippets(token: bool = False) -> dict[str, str]:
    """How programs ask, as HTML by the name of their means. ``token``: with the place of one."""
    option, header, argument, headers = GIVEN[token]
    return {
        "Shell": f"curl {option}--data-binary @photo.jpg '{HERE}/v1/classify?artifact={CODED_KEY}'",
        "Python": f"""import json
from pathlib import Path
from urllib.request import Request, urlopen

picture = Path("photo.jpg").read_bytes()
headers = {{"Content-Type": "image/jpeg"{header}}}
request = Request("{HERE}/v1/classify?artifact={CODED_KEY}", picture, headers)
with urlopen(request) as reply:
    print(json.load(reply)["label"])""",
        "Python, where lfdeploy is installed": f"""import lfdeploy

with lfdeploy.Client("{HERE}"{argument}) as client:
    print(client.predict("photo.jpg", artifact="{KEY}").label)""",
        "Triton's client": f"""from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

files = np.array([Path("photo.jpg").read_bytes()], dtype=object)
given = InferInput("encoded", [1], "BYTES")
given.set_data_from_numpy(files)
client = InferenceServerClient("{HOST}")
print(client.infer("{KEY}", [given]{headers}).as_numpy("probabilities"))""",
    }


def code(token: bool = False) -> str:
    """curl, Python and Triton's client; the browser puts its own address in, and the artifact that is
    chosen.
    """
    blocks = "".join(
        f"<h3>{name}</h3><div class='lf-code'><pre tabindex='0'><code>{text}</code></pre>"
        f'<button type="button" class="lf-button lf-copy" aria-label="Copy: {name}">Copy</button></div>'
        for name, text in snippets(token).items()
    )
    asked = "<p>In the place of TOKEN comes the word that this server asks for.</p>" if token else ""
    return (
        f'<details class="lf-fold" id="code"><summary>Use it from code</summary>{asked}{blocks}'
        '<p class="lf-quiet">All routes: <a class="lf-docs" href="docs" target="_blank">the API</a>.</p>'
        "</details>"
    )


def truth(examples: Sequence[Example]) -> str:
    """The true classes of the test pictures, in order; page.js writes them below the thumbnails."""
    rows = "".join(f"<li>{escape(example.label)}</li>" for example in examples)
    return f'<ul id="truth" hidden>{rows}</ul>'
