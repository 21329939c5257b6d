"""Tables of what was measured."""

import statistics

# The share of the machine that others may use.
QUIET = 0.1


def spread(values, digits=1):
    """The median, and between which values it lies."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


class Figures:
    """What one engine took for one work, in one setting, in each repetition."""

    def __init__(self, engine, work):
        self.engine, self.work, self.taken = engine, work, []

    @property
    def seconds(self):
        return [one.seconds for one in self.taken]

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def peak(self):
        return statistics.median(one.peak for one in self.taken)

    def in_unit(self, count):
        """The values of all repetitions in the unit of the work; `count` is how many rows or examples it has."""
        per = {"ms": lambda s: s * 1000, "s": lambda s: s}.get(self.work.unit, lambda s: count / s)
        return [per(seconds) for seconds in self.seconds]

    def as_json(self, count):
        return dict(work=self.work.name, engine=self.engine.name, family=self.engine.family, precision=self.engine.precision,
                    setting=self.engine.setting(self.work), unit=self.work.unit, values=self.in_unit(count), seconds=self.seconds, load=[one.load for one in self.taken],
                    peak_mb=[one.peak for one in self.taken], others=[one.others for one in self.taken])


def fastest(figures):
    """The figures of each engine and precision in its fastest setting."""
    best = {}
    for one in figures:
        kept = best.get(one.engine.name)
        if kept is None or one.median < kept.median:
            best[one.engine.name] = one
    return best


def details(work, figures, count):
    """A table of all settings of one work."""
    lines = [f"\n### {work.title} ({work.unit})\n", f"| engine | setting | {work.unit}, median (least to most) | s, of it loading | peak MB | others' share of the CPU |",
             "|---|---|---:|---:|---:|---:|"]
    for one in figures:
        values = spread(one.in_unit(count))
        loads = [taken.load for taken in one.taken if taken.load is not None]
        seconds = f"{one.median:.2f}" + (f", {statistics.median(loads):.2f}" if loads else "")
        others = max(taken.others for taken in one.taken)
        lines.append(f"| {one.engine.name} | {one.engine.setting(work)} | {values} | {seconds} | {one.peak:.0f} | {others:.0%} |")
    return "\n".join(lines)


def verdict(ratio, bar):
    """A ratio beside its bar."""
    return f"{ratio:.2f} ({'met' if ratio >= bar else 'missed'})"


def faster(ours, theirs):
    """How many times as fast the best of ours is as the best of theirs; nothing if either is not there."""
    if not ours or not theirs:
        return None
    return min(one.median for one in theirs) / min(one.median for one in ours)


def comparisons(work, best):
    """Pairs of what is compared and the ratio."""
    ours = [one for one in best.values() if not one.engine.rival]
    theirs = [one for one in best.values() if one.engine.rival]

    def same(figures, precision):
        return [one for one in figures if one.engine.precision == precision]

    if work.by == "precision":
        pairs = []
        for precision in ("f32", "bf16"):
            a, b = same(ours, precision), same(theirs, precision)
            pairs.append((precision, faster(a, b)))
            if a and b:
                pairs.append((f"memory {precision}", b[0].peak / a[0].peak))
        return pairs
    if work.by == "best":
        return [("best", faster(ours, theirs)), ("f32", faster(same(ours, "f32"), same(theirs, "f32")))]
    families = dict.fromkeys(one.engine.family for one in theirs)
    return [(family, faster(ours, [one for one in theirs if one.engine.family == family])) for family in families]


def summary(measured, counts):
    """One line for each work: all engines, and the ratios that have a bar. `measured`: figures by work."""
    families = list(dict.fromkeys(one.engine.family for figures in measured.values() for one in figures))
    lines = ["\n| work | unit | " + " | ".join(families) + " | ratio (of ours to the best rival's speed) | bar |", "|---" * (4 + len(families)) + "|"]
    for work, figures in measured.items():
        best, cells = fastest(figures), []
        for family in families:
            modes = [one for one in best.values() if one.engine.family == family]
            cells.append(", ".join(f"{one.engine.precision} {statistics.median(one.in_unit(counts[work.name])):.1f}" for one in modes) or "-")
        ratios = []
        for name, ratio in comparisons(work, best):
            if ratio is not None:
                ratios.append(f"{name} {verdict(ratio, 1 if name.startswith('memory') else work.bar)}")
        lines.append(f"| {work.title} | {work.unit} | {' | '.join(cells)} | {'; '.join(ratios) or '-'} | {work.bar:.2f} |")
    others = max((taken.others for figures in measured.values() for one in figures for taken in one.taken), default=0)
    if others > QUIET:
        lines.append(f"\nOther processes used up to {others:.0%} of the machine: these figures say little.")
    return "\n".join(lines)
