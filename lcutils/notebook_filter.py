"""Git's clean filter for notebooks: commits keep the pictures, but neither live charts, bars of progress nor times.

A live chart carries its whole table, many times the lines of everything else, and running the notebook makes it again.
`.gitattributes` names the files, `make` tells git the command, and the file that JupyterLab works on stays as it is.
Git starts this for every notebook that it looks at, so it uses the standard library alone.
"""

from __future__ import annotations

import json
import sys

LIVE_CHART = "application/vnd.vegalite."  # of any version
VOLATILE = ("execution", "papermill")  # metadata: when and how long a cell ran, as JupyterLab and papermill note it


def clean_notebook(text: str) -> str:
    """Return a notebook's JSON without times and bars, and without each live chart that has a picture beside it.

    A text that has none of these comes back unchanged, so cleaning twice is the same as cleaning once.

    Raises:
        json.JSONDecodeError: `text` is not JSON.
    """
    notebook = json.loads(text)
    cells = notebook["cells"]
    dropped = False
    for part in (notebook, *cells):
        for key in VOLATILE:
            dropped |= part["metadata"].pop(key, None) is not None
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if any(mimetype.startswith("image/") for mimetype in data):
            for mimetype in [mimetype for mimetype in data if mimetype.startswith(LIVE_CHART)]:
                del data[mimetype]
                dropped = True
    for cell in cells:
        for output in [output for output in cell.get("outputs", []) if output["output_type"] == "stream"]:
            said = "".join(output["text"])
            # A bar draws itself again and again over one line, each time after a carriage return.
            kept = "\n".join(line for line in said.split("\n") if "\r" not in line)
            dropped |= kept != said or not kept.strip()
            output["text"] = kept.splitlines(True) if kept != said else output["text"]
            if not kept.strip():
                cell["outputs"].remove(output)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" if dropped else text  # nbformat's layout


def main() -> None:
    """Clean standard input; if it is not a notebook, say so in one line, and git stores it as it is."""
    try:
        cleaned = clean_notebook(sys.stdin.buffer.read().decode())
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: this is not a notebook, so git stores it as it is ({error!r})")
    sys.stdout.buffer.write(cleaned.encode())


if __name__ == "__main__":
    main()
