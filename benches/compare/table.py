"""The figures: values by row and server, their medians and spread, ratios, and whether the project's targets are met."""

from statistics import median

LOGGING = "nginx, access_log on"


class Row:
    """One measured quantity. `ratio`: whether Roadstead's is also given as a share of nginx's.

    `target` is `(">=" or "<=", bound)`, for the ratio if there is one and else for Roadstead's own figure. The targets are
    with logging on: where nginx was measured with its access log, too, that is what the target's ratio is to.
    """

    def __init__(self, label, form, ratio, target):
        self.label, self.form, self.ratio, self.target = label, form, ratio, target
        self.values, self.failures = {}, {}

    def add(self, server, value):
        self.values.setdefault(server, []).append(value)

    def median(self, server):
        return median(self.values[server]) if self.values.get(server) else None

    def cell(self, server):
        if server in self.failures:
            return self.failures[server]
        if not (values := self.values.get(server)):
            return "–"
        text = self.form.format(median(values))
        spread = self.form.format(min(values)), self.form.format(max(values))
        return text if len(values) == 1 or spread[0] == spread[1] else f"{text} ({spread[0]} to {spread[1]})"

    def share(self, of="nginx"):
        ours, theirs = self.median("Roadstead"), self.median(of)
        return ours / theirs if self.ratio and ours is not None and theirs else None

    def judged(self):
        """The figure that the target is about."""
        return (self.share(LOGGING) or self.share()) if self.ratio else self.median("Roadstead")

    def verdict(self):
        """(the target, `met` or `missed` or nothing)"""
        if self.target is None:
            return "", ""
        sign, bound = self.target
        figure = self.judged()
        words = f"{'≥' if sign == '>=' else '≤'} {bound:g}"
        if figure is None:
            return words, "not measured"
        return words, "met" if (figure >= bound if sign == ">=" else figure <= bound) else "missed"


class Table:
    """Sections of rows, in the order in which they were first named."""

    def __init__(self, columns, missing):
        self.columns, self.missing = columns, missing
        self.sections, self.notes = {}, []
        self.others = 0.0  # the greatest share of the machine's CPU time that others took in a round that counts

    def row(self, section, label, form="{:.2f}", ratio=False, target=None):
        rows = self.sections.setdefault(section, {})
        return rows.setdefault(label, Row(label, form, ratio, target))

    def failed(self):
        """What went wrong with Roadstead itself."""
        return [f"{row.label}: {row.failures['Roadstead']}" for rows in self.sections.values() for row in rows.values()
                if "Roadstead" in row.failures]

    def missed(self):
        """Lines that name what was not met, and by how much."""
        for section, rows in self.sections.items():
            for row in rows.values():
                words, verdict = row.verdict()
                if verdict == "missed":
                    figure = f"{row.judged():.2f} × nginx's" if row.ratio else row.cell("Roadstead")
                    yield f"- {section}: {row.label}: {figure}, wanted {words}"

    def tally(self):
        """How many targets there are of each verdict."""
        verdicts = [row.verdict()[1] for rows in self.sections.values() for row in rows.values() if row.target]
        return ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("met", "missed", "not measured") if kind in verdicts)

    def lines(self):
        """Markdown whose columns are also aligned for a terminal."""
        for section, rows in self.sections.items():
            rows = [row for row in rows.values() if row.values or row.failures]
            if not rows:
                continue
            used = [name for name in self.columns if any(name in row.values or name in row.failures for row in rows)]
            used += [name for name in self.missing if name not in used]
            grid = [["", *used, f"Roadstead ÷ {LOGGING}", "Roadstead ÷ nginx", "target", ""]]
            for row in rows:
                share, logging = row.share(), row.share(LOGGING)
                grid.append([row.label, *(self.missing.get(name) or row.cell(name) for name in used),
                             f"{logging:.2f}" if logging is not None else "",
                             f"{share:.2f}" if share is not None else "", *row.verdict()])
            keep = [index for index, title in enumerate(grid[0]) if index == 0 or any(line[index] for line in grid[1:])]
            grid = [[line[index] for index in keep] for line in grid]
            widths = [max(map(len, column)) for column in zip(*grid)]
            grid.insert(1, ["-" * max(width, 3) for width in widths])
            yield f"### {section}"
            yield ""
            for line in grid:
                yield "| " + " | ".join(cell.ljust(max(width, 3)) for cell, width in zip(line, widths)) + " |"
            yield ""
        yield from (f"- {note}" for note in self.notes)
