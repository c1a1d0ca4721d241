"""A comparison as one page of HTML that needs no other file: verdict, tables, plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from zerograsp_edge.calibration.comparison import plots
from zerograsp_edge.calibration.comparison.report import Check, Comparison

# Name, unit, digits, and what it says, by entry of the budget.
_CHECKS = {
    "max_error": (
        "Largest tensor error",
        "",
        ".2e",
        "of the tensor’s largest magnitude; A’s splits forced on B",
    ),
    "cosine": ("Least tensor cosine", "", ".7f", "A’s splits forced on B"),
    "key_iou": ("Octree key-set IoU", "", ".5f", "mean over the frames at the worst depth, splits free"),
    "chamfer": ("Chamfer distance", "mm", "+.4f", "change of the mean"),
    "f1_5": ("F1 at 5 mm", "points", "+.3f", "lost by the mean"),
    "f1_10": ("F1 at 10 mm", "points", "+.3f", "lost by the mean"),
    "normals": ("Normal consistency", "points", "+.3f", "lost by the mean"),
    "grasp_overlap": ("Best grasps shared", "", ".4f", "best 50 of a frame after suppression"),
    "same_verdict": ("Same collision verdict", "", ".4f", "A’s grasps in either reconstruction"),
    "picking": ("Picking success", "points", "+.1f", "lost"),
}
_STYLE = """
:root{--ink:#1d2530;--soft:#5d6878;--line:#dfe4ea;--paper:#fff;--ground:#f4f6f8;--blue:#2563a8;--orange:#c2570c;
--green:#15703b;--red:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;--paper:#1a2029;--ground:#12161c;
--blue:#6aaef5;--orange:#f0924f;--green:#5cc98a;--red:#f2837b}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 4px}p{margin:4px 0 12px}
.soft,figcaption{color:var(--soft)}
.card{background:var(--paper);
border:1px solid var(--line);border-radius:8px;padding:14px 18px;margin:12px 0;overflow-x:auto}
.verdict{border-left:6px solid var(--green)}.verdict.no{border-left-color:var(--red)}
.verdict.no{color:var(--ink)}.row figcaption{max-width:520px}.row .narrow{max-width:300px}
.row td:first-child{white-space:nowrap}
.verdict strong{font-size:19px;color:var(--green)}.verdict.no strong{color:var(--red)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);font-size:13px}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}.n{text-align:right;white-space:nowrap}
.ok{color:var(--green);font-weight:600}.no{color:var(--red)}td.no{font-weight:600}
.row{display:flex;flex-wrap:wrap;gap:12px 28px;align-items:flex-start}
figure{margin:0}figcaption{font-size:13px}
.grid-of{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:16px}
.grid-of figcaption b{color:var(--ink);font-weight:600}
svg{max-width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--soft)}
.bar{fill:var(--blue)}.bad{fill:var(--red)}.axis{stroke:var(--soft)}.grid{stroke:var(--line)}
.limit{stroke:var(--soft);stroke-dasharray:4 3}
polyline{fill:none;stroke-width:2}.free{stroke:var(--blue)}circle.free{fill:var(--blue)}
.worst{stroke:var(--blue);stroke-dasharray:2 3}circle.worst{fill:var(--paper);stroke-dasharray:none}
.forced{stroke:var(--orange)}circle.forced{fill:var(--orange)}.dot{fill:var(--blue);fill-opacity:.7}
.key i{display:inline-block;width:22px;border-top:2px solid;vertical-align:middle;margin:0 6px 0 14px}
.key i:first-child{margin-left:0}
"""


def page(found: Comparison) -> str:
    """The page; plots are SVG inside it, nothing is loaded."""
    name_a, name_b = (side.bundle.rstrip("/").rsplit("/", 1)[-1] for side in (found.a, found.b))
    parts = [
        f"<h1>{escape(name_b)} compared with {escape(name_a)}</h1>",
        f'<p class="soft">{escape(found.frames)}</p>',
        _verdict(found),
        _card(_table(("", "bundle", "precision", "backend", "stages"), _sides(found), numbers={4})),
        "<h2>Budget</h2>",
        f'<p class="soft">Limits for {escape(found.budget)}, where no option changed them.</p>',
        _card(_budget(found.checks)),
        "<h2>Stages</h2>",
        '<p class="soft">B on A’s octree, so that a row belongs to the same node in both. Errors are relative to the '
        "tensor’s largest magnitude in its frame. A stage is handed the errors of those before it.</p>",
        _card(_tensors(found)),
        _card(_histograms(found)),
        "<h2>Octrees</h2>",
        '<p class="soft">Intersection over union of the sets of keys. Free: the nodes that each grows by its own '
        "decisions. On A’s octree: the nodes that each would split there, this depth’s decisions alone.</p>",
        _card(_octrees(found)),
        *_shapes(found),
        "<h2>Grasps</h2>",
        _card(_grasps(found)),
        *_picking(found),
    ]
    if found.notes:
        parts += [
            "<h2>Notes</h2>",
            _card("<ul>" + "".join(f"<li>{escape(n)}</li>" for n in found.notes) + "</ul>"),
        ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name_b)} compared with {escape(name_a)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _verdict(found: Comparison) -> str:
    if found.ok:
        passed = f"All {len(found.checks)} checks of the {found.budget} budget hold."
        return f'<div class="card verdict"><strong>Within the budget</strong><br>{escape(passed)}</div>'
    failing = [check for check in found.checks if not check.ok]
    lines = "".join(f"<li>{escape(_title(c))}: {_found(c)}, {escape(c.detail)}</li>" for c in failing)
    count = f"{len(failing)} of {len(found.checks)} checks fail:"
    return f'<div class="card verdict no"><strong>Beyond the budget</strong><br>{count}<ul>{lines}</ul></div>'


def _sides(found: Comparison) -> Iterable[tuple[str, ...]]:
    for name, side in (("A", found.a), ("B", found.b)):
        yield name, escape(side.bundle), side.precision, side.backend, f"{side.megabytes:.1f} MB"


def _title(check: Check) -> str:
    return _CHECKS[check.name][0]


def _found(check: Check) -> str:
    _, unit, digits, _ = _CHECKS[check.name]
    return f"{check.value:{digits}} {unit}".strip()


def _budget(checks: Sequence[Check]) -> str:
    rows = []
    for check in checks:
        title, unit, _, meaning = _CHECKS[check.name]
        allowed = f"{'≥' if check.at_least else '≤'} {check.limit:g} {unit}".strip()
        verdict = ("ok", "ok") if check.ok else ("no", "beyond")
        rows.append(
            f'<tr><td>{title}<br><span class="soft">{escape(meaning)}</span></td>'
            f'<td class="n">{_found(check)}</td><td class="n">{allowed}</td>'
            f'<td class="{verdict[0]}">{verdict[1]}</td><td>{escape(check.detail)}</td></tr>'
        )
    head = '<tr><th>check</th><th class="n">found</th><th class="n">allowed</th><th></th><th>where</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _limit(found: Comparison, name: str) -> float:
    return next(check.limit for check in found.checks if check.name == name)


def _tensors(found: Comparison) -> str:
    error, cosine = _limit(found, "max_error"), _limit(found, "cosine")
    rows = []
    for t in found.tensors:
        rows.append(
            (
                escape(t.stage), escape(t.tensor), _mark(f"{t.max_error:.1e}", t.max_error <= error),
                _mark(f"{t.cosine:.7f}", t.cosine >= cosine), f"{t.values:,}",
                f"{100 * t.equal / max(t.values, 1):.1f} %",
                _mark(str(t.not_finite), t.not_finite == 0),
            )
        )  # fmt: skip
    head = ("stage", "tensor", "largest error", "cosine", "values", "equal", "not finite")
    return _table(head, rows, numbers={2, 3, 4, 5, 6})


def _histograms(found: Comparison) -> str:
    limit = _limit(found, "max_error")
    figures = []
    for t in found.tensors:
        if any(t.histogram):
            drawing = plots.histogram(t.histogram, found.error_edges, limit, f"errors of {t.name}")
        else:
            drawing = '<p class="soft">No value differs.</p>'
        figures.append(f"<figure><figcaption><b>{escape(t.name)}</b></figcaption>{drawing}</figure>")
    return (
        '<p class="soft">How many values differ by how much: relative error to the right, the logarithm of the count '
        "upwards; dashed: the budget. Equal values are not drawn.</p>"
        f'<div class="grid-of">{"".join(figures)}</div>'
    )


def _octrees(found: Comparison) -> str:
    series = (
        ("free", "free, mean", [o.free_mean for o in found.octrees]),
        ("worst", "free, worst frame", [o.free_worst for o in found.octrees]),
        ("forced", "on A’s octree, mean", [o.forced_mean for o in found.octrees]),
    )
    drawing = plots.lines(
        [o.depth for o in found.octrees], series, _limit(found, "key_iou"), "depth", "key-set IoU by depth"
    )
    key = (
        '<figcaption class="key"><i style="color:var(--blue)"></i>free, mean'
        '<i style="color:var(--blue);border-top-style:dotted"></i>free, worst frame'
        '<i style="color:var(--orange)"></i>on A’s octree, mean'
        '<i style="color:var(--soft);border-top-style:dashed"></i>budget</figcaption>'
    )
    rows = [
        (
            str(o.depth), f"{o.nodes_a:,}", f"{o.nodes_b:,}", f"{o.free_mean:.5f}", f"{o.free_worst:.4f}",
            f"{o.forced_mean:.5f}", f"{o.forced_worst:.4f}",
        )
        for o in found.octrees
    ]  # fmt: skip
    head = ("depth", "nodes of A", "nodes of B", "free, mean", "worst", "on A’s octree, mean", "worst")
    return f'<div class="row"><figure>{drawing}{key}</figure></div>{_table(head, rows, numbers=set(range(1, 7)))}'


def _shapes(found: Comparison) -> list[str]:
    if (shapes := found.shapes) is None:
        return []
    rows = []
    for name, entry, unit in (
        ("chamfer distance", "chamfer", "mm"), ("F1 at 5 mm", "f1_5", "%"), ("F1 at 10 mm", "f1_10", "%"),
        ("normal consistency", "normal_consistency", "%"),
    ):  # fmt: skip
        a, b = getattr(shapes.a, entry), getattr(shapes.b, entry)
        changes = [getattr(o.b, entry) - getattr(o.a, entry) for o in shapes.objects]
        largest = max(changes, key=abs)
        rows.append((name, f"{a:.3f} {unit}", f"{b:.3f} {unit}", f"{b - a:+.4f}", f"{largest:+.3f}"))
    missed = [("objects missed", str(shapes.missed_a), str(shapes.missed_b), "", "")]
    head = ("mean", "A", "B", "change", "largest of one object")
    points = [(o.a.chamfer, o.b.chamfer, f"{o.frame}, object {o.object_id}") for o in shapes.objects]
    drawing = plots.scatter(points, "A, mm", "B, mm", "chamfer distance of every object, B over A")
    return [
        "<h2>Shapes</h2>",
        f'<p class="soft">Against the true surfaces of {len(shapes.objects)} objects.</p>',
        _card(
            f'<div class="row"><figure>{drawing}<figcaption class="narrow">Chamfer distance of every object; '
            "on the dashed line both are alike</figcaption></figure>"
            f'<div style="flex:1;min-width:420px">{_table(head, rows + missed, numbers={1, 2, 3, 4})}</div></div>'
        ),
    ]


def _grasps(found: Comparison) -> str:
    g = found.grasps
    rows = [
        (f"best {g.top} of a frame", f"{g.best_a:,}", f"{g.best_b:,}", f"{g.shared:,}", f"{100 * g.overlap:.2f} %"),
        (
            "A’s grasps that may be executed", f"{g.admitted_a:,}", f"{g.admitted_b:,}", f"{g.admitted_both:,}",
            f"{100 * g.same_verdict:.2f} %",
        ),
    ]  # fmt: skip
    return (
        _table(("", "A", "B", "both", "agreement"), rows, numbers={1, 2, 3, 4})
        + '<p class="soft">Shared: of the same object, nearer than 3 cm and turned by less than 30°, where a hand '
        "turned by 180° about its approach is the same one; after suppression with the same measure. "
        f"Executed: {g.judged:,} grasps that A predicts, refined against the scene that A and that B reconstructs; "
        "agreement counts those that both admit or both refuse.</p>"
    )


def _picking(found: Comparison) -> list[str]:
    if (picking := found.picking) is None:
        return []
    rows = [
        (name, str(p.attempts), str(p.picks), f"{p.success:.1f} %")
        for name, p in (("A", picking.a), ("B", picking.b))
    ]
    return [
        "<h2>Picking</h2>",
        f'<p class="soft">The grasp loop in {picking.cells} simulated cells, the same for both.</p>',
        _card(_table(("", "attempts", "picked", "success"), rows, numbers={1, 2, 3})),
    ]


def _mark(text: str, ok: bool) -> str:
    return text if ok else f'<b class="no">{text}</b>'


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> str:
    """Cells are HTML already."""
    kind = [' class="n"' if i in numbers else "" for i in range(len(head))]
    titles = "".join(f"<th{k}>{h}</th>" for k, h in zip(kind, head, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{k}>{cell}</td>" for k, cell in zip(kind, row, strict=True)) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"
