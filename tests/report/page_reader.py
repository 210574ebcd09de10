"""What a browser would load of a page, and what it would show."""

from html.parser import HTMLParser


class PageReader(HTMLParser):
    """Collects what a browser would load, the tags, the section ids and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: list[str] = []
        self.text = ""
        self._in_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._in_style = tag == "style"
        self.loads += [str(values[name]) for name in ("src", "href", "srcset") if name in values]
        if tag == "section":
            self.sections.append(str(values["id"]))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.tags if name == tag]
