"""Behind the store: the shell of every page, with the one style sheet and what prints.

A page needs nothing but itself: no script, no font, no picture from elsewhere. Its policy forbids
all of them (Content Security Policy Level 3), so that even markup that got through could load and
run nothing.
"""

from collections.abc import Sequence
from typing import Final

from appliance.report.markup import Safe, join, plain, say, tag

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

STYLE: Final = Safe("""
:root{color-scheme:light;--ink:#17212b;--soft:#4c5a67;--line:#d3dae0;--pane:#f5f7f9;--lead:#163f63;
--critical:#8f1020;--high:#ad410c;--medium:#755800;--low:#1d5a86;--informational:#55626d}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;border-top:6px solid var(--lead);background:#fff;color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",
sans-serif;overflow-wrap:anywhere}
main,header,footer,nav{max-width:72rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:1.4rem}
h1{font-size:1.65rem;line-height:1.25;margin:.2rem 0 .8rem;text-wrap:balance}
h2{font-size:1.22rem;margin:2.2rem 0 .7rem;padding-bottom:.25rem;
border-bottom:2px solid var(--lead);color:var(--lead)}
h3{font-size:1.02rem;margin:1.3rem 0 .4rem}
p{margin:.4rem 0;max-width:68rem}
a{color:#0f4c81}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid #0f4c81;
outline-offset:2px}
code,pre{font:13px/1.45 ui-monospace,SFMono-Regular,Consolas,"DejaVu Sans Mono",monospace}
code,.v,td,th,pre{unicode-bidi:isolate}
code{background:var(--pane);border-radius:3px;padding:0 .2em;overflow-wrap:anywhere}
pre{background:var(--pane);border:1px solid var(--line);border-radius:4px;padding:.6rem .75rem;
margin:.4rem 0;white-space:pre-wrap;overflow-wrap:anywhere;direction:ltr}
.esc{color:#86230f;background:#fbeae6;border-radius:2px}
.kicker{color:var(--soft);margin:0;letter-spacing:.02em}
.soft,.note{color:var(--soft)}
.note{font-size:.9rem}
.none{color:var(--soft);font-style:italic}
.alarm{border-left:5px solid var(--high);background:#fdf4ee;padding:.6rem .9rem;margin:.8rem 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:.1rem 1.5rem;
margin:0;padding:.7rem 0;border:solid var(--line);border-width:1px 0}
.facts div{padding:.3rem 0;min-width:0}
dt{color:var(--soft);font-size:.82rem}
dd{margin:0;font-weight:600}
.facts .big{font-size:1.15rem}
nav ol{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.8rem 0 0;list-style:none;
font-size:.92rem}
ul,ol.said{margin:.4rem 0;padding-left:1.3rem}
.said li{margin:.35rem 0;max-width:68rem}
.cites{font-size:.8rem;margin-left:.35em;color:var(--soft)}
.cites:before{content:"["}.cites:after{content:"]"}
.level{font-weight:700;white-space:nowrap}
.level svg{vertical-align:-4px;margin-right:.35rem}
.t-critical{color:var(--critical)}.t-high{color:var(--high)}.t-medium{color:var(--medium)}
.t-low{color:var(--low)}.t-informational{color:var(--informational)}
table.rows{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.9rem}
caption{text-align:left;color:var(--soft);padding:.2rem 0;font-size:.85rem}
.rows th,.rows td{text-align:left;vertical-align:top;padding:.4rem .6rem;
border-bottom:1px solid var(--line);overflow-wrap:anywhere}
.rows thead th{background:var(--pane);border-bottom:2px solid #b6c1ca;white-space:nowrap;
overflow-wrap:normal;font-size:.82rem}
.rows tbody th{font-weight:600}
.rows .tight{white-space:nowrap}.rows .some{min-width:6.5em}.rows .more{min-width:8.5em}
.rows .when{white-space:nowrap;font-variant-numeric:tabular-nums}
.rows .num{font-variant-numeric:tabular-nums;white-space:nowrap}
details{border:1px solid var(--line);border-radius:4px;margin:.45rem 0;padding:0 .8rem}
details[open]{padding-bottom:.6rem}
summary{cursor:pointer;padding:.5rem 0;line-height:1.45}
summary .fid{font-weight:700;color:var(--lead);margin-right:.5rem}
:target{scroll-margin-top:1rem;outline:3px solid #d9a400;outline-offset:2px}
.scroll{overflow-x:auto;margin:.6rem 0}
figure{margin:.6rem 0}
figcaption{font-size:.85rem;color:var(--soft)}
.picture{display:block;max-width:100%;height:auto;font-family:system-ui,-apple-system,"Segoe UI",
Roboto,"DejaVu Sans",sans-serif;font-size:12px}
.wide{display:block}.small-only{display:none}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem;color:var(--soft)}
.key svg{vertical-align:-4px;margin-right:.3rem}
svg text{fill:var(--ink);unicode-bidi:isolate}
svg .b{font-weight:700}svg .b:not(.big):not(.t){font-size:12px}
svg .big{font-size:15px}
svg .s{fill:var(--soft)}
svg .s{font-size:11px}svg .small{font-size:10.5px}svg .label{font-size:11.5px;font-weight:600}
svg .to{fill:var(--lead);font-weight:700}
svg .t{font-size:11px;fill:var(--soft)}svg .gl{font-size:11px;fill:#38434c;paint-order:stroke;
stroke:#fff;stroke-width:4px}
svg .n{font-size:10px;font-weight:700}svg .n,svg .b{paint-order:stroke;stroke:#fff;
stroke-width:3px;stroke-linejoin:round}
svg .lane{fill:#f7f9fa;stroke:var(--line)}
svg .rule{stroke:#e1e6ea;fill:none}
svg .tick{stroke:#c3ccd3;stroke-dasharray:1 3;fill:none}
svg .break{stroke:#7b8790;fill:none;stroke-dasharray:4 3}
svg .gap{stroke:#55626d;stroke-dasharray:4 3}
svg .lv{stroke:#fff;stroke-width:1}
svg .critical{fill:var(--critical)}svg .high{fill:var(--high)}svg .medium{fill:var(--medium)}
svg .low{fill:var(--low)}svg .informational{fill:#fff;stroke:var(--informational);stroke-width:2}
svg .spine{stroke:#8b98a3;stroke-width:2;fill:none}svg .dashed{stroke-dasharray:5 4}
svg .box{fill:#fff;stroke:#8b98a3}svg .box.stage{stroke:var(--lead);stroke-width:1.4}
svg .box.gap{fill:#fafafa;stroke:#55626d;stroke-dasharray:4 3}
svg .box.next{fill:#fff;stroke:#55626d;stroke-dasharray:7 4;stroke-width:1.4}
svg .knob{fill:var(--lead);stroke:#fff;stroke-width:2}
svg .knob.next{fill:#fff;stroke:#55626d;stroke-dasharray:4 3}
svg .knob.gap{fill:#fff;stroke:#55626d}
svg .knobtext{font-weight:700;font-size:12px;fill:#fff;stroke:none}
svg .gap+.knobtext,svg .next+.knobtext{fill:var(--ink)}
svg .node{fill:#fff;stroke:#66737e}svg .node.ancestor,svg .node.touched{fill:#f3f5f7}
svg .node.touched{stroke-dasharray:4 3}
svg .node.found{stroke:var(--high);stroke-width:2}
svg .node.cause{fill:#eef4f9;stroke:var(--lead);stroke-width:2.5}
svg .inner{fill:none;stroke:var(--lead)}
svg .no{font-size:12px;font-weight:700;fill:var(--lead)}
svg .badge{fill:var(--high)}svg .badgetext{fill:#fff;font-size:11px;font-weight:700}
svg .edge{stroke:#75828d;fill:none;stroke-width:1.3}svg .far{stroke:var(--lead);stroke-width:2.2;
stroke-dasharray:8 3}
svg .head{fill:#55626d}
svg .bar{fill:#48708f}svg .bar.quiet{fill:#c3d0da}svg .axis{stroke:#8b98a3}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:0 2rem}
footer{margin-top:2.5rem;padding-top:.8rem;padding-bottom:2rem;border-top:1px solid var(--line);
color:var(--soft);font-size:.85rem}
@media (max-width:640px){
body{font-size:16px}main,header,footer,nav{padding-left:1rem;padding-right:1rem}
h1{font-size:1.35rem}.facts{grid-template-columns:repeat(auto-fit,minmax(9rem,1fr))}
.wide{display:none}.small-only{display:block}
.rows thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.rows,.rows tbody,.rows tr,.rows th,.rows td,.rows caption{display:block}
.rows tr{border:1px solid var(--line);border-radius:4px;margin:.5rem 0;padding:.3rem .6rem}
.rows tbody th,.rows td{border:0;padding:.15rem 0}
.rows td:before,.rows tbody th:before{content:attr(data-label);display:block;color:var(--soft);
font-size:.78rem;font-weight:400}
.rows .when,.rows .num,.rows .tight{white-space:normal}
.scroll .picture{max-width:none}
}
@media print{
@page{size:A4;margin:15mm 14mm 16mm;
@bottom-right{content:counter(page) " / " counter(pages);font:8pt sans-serif;color:#4c5a67}}
@page broad{size:A4 landscape;margin:12mm 14mm 14mm}
html{font-size:9.5pt}body{font-size:9.5pt;line-height:1.4}main,header,footer,nav{max-width:none;padding-left:0;padding-right:0}
header{padding-top:.5rem}nav{display:none}
h1{font-size:17pt}h2{font-size:13pt;margin-top:1.2rem}
h2,h3,caption,summary,.legend{break-after:avoid}
p,.said li{orphans:3;widows:3}
thead{display:table-header-group;break-after:avoid}
.rows tbody tr:first-child{break-before:avoid}
tr,figure,.facts,.said li,.alarm,details,pre{break-inside:avoid}
.scroll{overflow:visible}
.scroll .picture,.picture{max-width:100%;max-height:226mm;margin:0 auto}
.broad{page:broad;break-before:page;break-after:page}
.broad .picture{max-height:158mm}
.tall{break-before:page;break-after:page}.tall .picture{max-height:235mm}
.wide{display:block}.small-only{display:none}
details{border-color:#b6c1ca}
details::details-content{content-visibility:visible;display:block;block-size:auto}
summary{list-style:none}summary::-webkit-details-marker{display:none}
pre{white-space:pre-wrap}
table.rows,.rows code,pre{font-size:8.5pt}.rows thead th{font-size:8pt;white-space:normal}
.rows th,.rows td{padding:.25rem .35rem}
.rows .some{min-width:5.6em}.rows .more{min-width:5.8em}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
a{color:inherit;text-decoration:none}
}
@media (prefers-contrast:more){:root{--soft:#2b3640;--line:#66737e}}
""")


def build_page(
    title: str,
    *,
    head: Sequence[Safe],
    sections: Sequence[tuple[str, str, Safe]],
    foot: Safe,
) -> Safe:
    """A whole page. `sections` are (anchor, heading, content), numbered as they come."""
    links = [
        tag("li", tag("a", say(f"{place} {heading}"), href=f"#{key}"))
        for place, (key, heading, _) in enumerate(sections, 1)
    ]
    body = [
        tag("section", tag("h2", say(f"{place} {heading}"), id=f"{key}-h"), content,
            id=key, aria_labelledby=f"{key}-h")
        for place, (key, heading, content) in enumerate(sections, 1)
    ]  # fmt: skip
    return join(
        [
            Safe("<!doctype html>\n"),
            tag(
                "html",
                Safe("\n"),
                tag(
                    "head",
                    tag("meta", charset="utf-8"),
                    tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
                    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                    tag("meta", name="referrer", content="no-referrer"),
                    tag("title", plain(title, 200)),
                    tag("style", STYLE),
                ),
                Safe("\n"),
                tag(
                    "body",
                    tag("header", *head),
                    tag("nav", tag("ol", *links), aria_label="Contents"),
                    tag("main", *(Safe(f"\n{part}") for part in body)),
                    tag("footer", foot),
                ),
                lang="en",
            ),
            Safe("\n"),
        ]
    )


def list_facts(facts: Sequence[tuple[str, Safe]], big: int = 0) -> Safe:
    """Names and values side by side; the first `big` values are set larger."""
    rows = [
        tag("div", tag("dt", say(name)), tag("dd", value, class_="big" if place < big else None))
        for place, (name, value) in enumerate(facts)
    ]
    return tag("dl", *rows, class_="facts")


def show_figure(wide: Safe, narrow: Safe | None = None, *, caption: Safe | None = None) -> Safe:
    """A picture with its caption; `narrow` is the one for a phone."""
    below = (tag("figcaption", caption),) if caption else ()
    if narrow is None:
        return tag(
            "figure",
            tag("div", wide, class_="scroll", tabindex=0, role="group",
                aria_label="picture, scrolls sideways"),
            *below,
        )  # fmt: skip
    return tag(
        "figure",
        tag("div", wide, class_="wide"),
        tag("div", narrow, class_="small-only"),
        *below,
    )
