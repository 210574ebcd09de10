"""The style sheet of report.html: system fonts, light and dark, one column on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1b1f24; --soft: #5b646e; --line: #e3e5e8;
  --accent: #1f6fc4; --warn: #a3480d; --edge: #0000000f;
  --first: #1f6fc4; --second: #d9601a; --third: #7b8794; --fourth: #8b4fc0; --teacher: #aab4bf;
  --gap: .3rem; --names: 9.25rem; --set-gap: 1.25rem;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121519; --card: #1a1e23; --ink: #e9ebee; --soft: #a0a9b3; --line: #2c3238;
    --accent: #74b4f6; --warn: #f0a35e; --edge: #ffffff14;
    --first: #66aef8; --second: #f58b4c; --third: #8d98a4; --fourth: #c294ec; --teacher: #4b5661;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
.run { margin: 0 0 .5rem; color: var(--accent); font-size: .875rem; font-weight: 600; }
h1 {
  max-width: 22em; margin: 0 0 1rem; text-wrap: balance;
  font-size: clamp(1.7rem, 4.2vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em;
}
h2 { margin: 0 0 .35rem; font-size: 1.4rem; line-height: 1.25; letter-spacing: -.012em; text-wrap: balance; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { max-width: 46rem; margin: 0 0 1rem; }
.lead { font-size: 1.1rem; color: var(--soft); }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; line-height: 1.4; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { margin-top: 3rem; scroll-margin-top: 1rem; }
figure { margin: 0; min-width: 0; }
.phone { display: none; }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin-top: 1.75rem; }
.card, .charts figure, .wide, .halves figure, pre {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem 1.15rem;
}
.card b {
  display: block; margin-bottom: .2rem; font-size: 1.75rem; line-height: 1.2;
  letter-spacing: -.015em; font-variant-numeric: tabular-nums;
}
.card span { display: block; color: var(--soft); font-size: .875rem; line-height: 1.4; }

img {
  display: block; width: 100%; height: auto; border-radius: .3rem;
  background: var(--line); outline: 1px solid var(--edge); outline-offset: -1px;
}
.band {
  display: grid; grid-template-columns: var(--names) repeat(8, minmax(0, 1fr));
  gap: var(--gap); align-items: center; margin-bottom: 1rem;
}
.name { font-weight: 600; line-height: 1.3; padding-right: .5rem; }
.strip { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: var(--gap); }
.class {
  display: grid; grid-template-columns: var(--columns); gap: var(--set-gap);
  align-items: center; padding: .6rem 0;
}
.class + .class { border-top: 1px solid var(--line); }
.class h3 { margin: 0; overflow-wrap: anywhere; hyphens: auto; }
.heads { padding: 0 0 .25rem; font-weight: 600; color: var(--soft); font-size: .9rem; }
.set { display: grid; grid-template-columns: repeat(var(--across), minmax(0, 1fr)); gap: var(--gap); }

.halves { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 5fr); gap: 2rem; align-items: start; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.wide { max-width: 46rem; }
figcaption { margin-top: .75rem; line-height: 1.45; }
.charts figcaption { margin: 0 0 .4rem; color: var(--ink); font-weight: 600; }
.chart { font-size: .78rem; line-height: 1.2; color: var(--soft); font-variant-numeric: tabular-nums; }
.plot { position: relative; height: 10rem; margin: .5rem .6rem 1.4rem 3.2rem; border-bottom: 1px solid var(--third); }
.halves .plot, .wide .plot { height: 19rem; }
.plot svg { display: block; width: 100%; height: 100%; }
.plot span { position: absolute; white-space: nowrap; }
.plot .y { right: calc(100% + .5rem); transform: translateY(-50%); }
.plot .x { top: calc(100% + .35rem); transform: translateX(-50%); }
.x-label { text-align: right; }
.plot path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot .line { stroke: currentColor; stroke-width: 2; }
.plot .area { fill: currentColor; opacity: .35; }
.plot .dots { stroke: currentColor; stroke-width: 6; stroke-linecap: round; }
.plot .dashed { stroke-dasharray: 5 4; stroke-width: 1.5; }
.plot .faint { opacity: .3; stroke-width: 1; }
.first { color: var(--first); } .second { color: var(--second); } .third { color: var(--third); }
.fourth { color: var(--fourth); } .teacher { color: var(--teacher); }
.key {
  display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .85rem; color: var(--ink);
}
.key li { display: flex; align-items: center; gap: .45rem; }
.key i { width: 1.3rem; height: 0; border-top: 2.5px solid currentColor; }
.key i.dashed { border-top-style: dashed; }
.key i.area { height: .75rem; border: 0; background: currentColor; border-radius: .15rem; opacity: .7; }

table { border-collapse: collapse; width: 100%; font-size: .925rem; }
th, td { text-align: left; vertical-align: top; padding: .6rem 1rem .6rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .82rem; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.better, .headlines td.number { font-weight: 650; }
.headlines td:first-child { width: 23rem; }
.headlines td.number { min-width: 5rem; }
.twins { margin-bottom: .75rem; }
.beside, .protocol { color: var(--soft); font-size: .87rem; }
.metrics td:first-child { width: 13rem; }
.versions { max-width: 42rem; }
td, code, pre { overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: .5rem 0; white-space: pre-wrap; }

.folded { margin-top: 4rem; }
.folded section { margin: 0; border-top: 1px solid var(--line); }
.folded section:last-child { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .7rem 0; font-weight: 600; }
summary:hover { color: var(--accent); }
details[open] { padding-bottom: 1.5rem; }
#reconstructions summary { color: var(--accent); font-weight: 400; font-size: .9rem; }
.missing {
  margin: 1rem 0; padding: .2rem 0 .2rem .9rem; border-left: 3px solid var(--warn);
  color: var(--warn); font-size: .9rem;
}
.missing ul { margin: .2rem 0; padding-left: 1.1rem; }
nav {
  display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; margin-top: 1.75rem;
  padding-top: 1rem; border-top: 1px solid var(--line); font-size: .875rem;
}
nav .desk { color: var(--soft); }

@media (max-width: 44rem) {
  main { padding: 1.5rem 1rem 3rem; }
  section { margin-top: 2.75rem; }
  .desk { display: none; }
  .phone { display: block; grid-column: 1 / -1; color: var(--soft); font-size: .85rem; margin-top: .35rem; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; }
  .card { padding: .75rem .85rem; }
  .card b { font-size: 1.35rem; }
  .card span { font-size: .8rem; }
  .band { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .band .name { grid-column: 1 / -1; margin-top: .35rem; }
  .band .name small { display: inline; margin-left: .5rem; }
  .class { display: block; padding: 1rem 0; }
  .class.heads { display: none; }
  .class.heads + .class { border: 0; }
  .set, .strip { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .halves { grid-template-columns: minmax(0, 1fr); gap: 1.25rem; }
  .halves .plot, .wide .plot { height: 13rem; }
  .card, .charts figure, .wide, .halves figure { padding: .85rem; }
  .headlines tr {
    display: grid; grid-template-columns: minmax(0, 1fr) 4.2rem 4.2rem; column-gap: .6rem;
    padding: .6rem 0; border-bottom: 1px solid var(--line);
  }
  .headlines td, .headlines td:first-child, .headlines th { width: auto; padding: 0; border: 0; }
  .headlines td.number { min-width: 0; text-align: right; }
  .headlines th:not(:first-child) { text-align: right; }
  .headlines th:last-child { display: none; }
  .headlines td[colspan] { grid-column: span 2; white-space: normal; }
  .headlines .beside { grid-column: 1 / -1; margin-top: .15rem; }
  .twins td, .twins th { padding-right: .5rem; }
  .metrics thead, .stages thead { display: none; }
  .metrics tr, .stages tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .metrics td, .stages td { display: block; width: auto; border: 0; padding: .05rem 0; }
}
"""

PAPER_STYLE = """
.band .name { overflow-wrap: anywhere; }
.paper { max-width: 60rem; }
.paper th { font-size: .9rem; color: var(--ink); font-weight: 500; }
.paper thead th { color: var(--soft); font-weight: 600; font-size: .82rem; }
.paper td, .paper th { padding: .4rem 1rem .4rem 0; }
.paper td.number small { max-width: 9rem; white-space: normal; }
.paper sup { margin-left: .15rem; color: var(--soft); font-size: .7rem; }
.paper .ours th, .paper .ours td { background: var(--card); border-bottom: 0; }
.paper .ours th { padding-left: .6rem; border-left: 3px solid var(--second); font-weight: 650; }
.paper .more td { padding: 0 1rem .6rem .6rem; border-left: 3px solid var(--second); font-size: .85rem; }
.paper .more td { border-bottom: 1px solid var(--line); }
.paper .more ul { margin: 0 0 .2rem; padding-left: 1.1rem; }
.notes { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem .8rem; max-width: 60rem; }
.notes dt { font-weight: 650; }
.notes dd { margin: 0; font-size: .88rem; color: var(--soft); }
.notes + ul { padding-left: 1.1rem; }
.bars { max-width: 60rem; margin: 0 0 1rem; padding: 0; list-style: none; font-size: .88rem; }
.bars li { display: grid; grid-template-columns: 15rem minmax(0, 1fr) 3.5rem; gap: .8rem; align-items: center; }
.bars li { padding: .12rem 0; }
.bars i { display: block; height: .85rem; border-radius: .2rem; background: var(--third); }
.bars b { font-weight: 600; font-variant-numeric: tabular-nums; }
.bars .paper i { background: var(--first); }
.bars .ours i { background: var(--second); }
.bars .other { color: var(--soft); }
.bars .other i { background: var(--teacher); opacity: .55; }

@media (max-width: 44rem) {
  .paper td, .paper th { padding-right: .4rem; font-size: .8rem; overflow-wrap: normal; }
  .paper thead th { font-size: .72rem; }
  .paper th[scope="row"], .paper .more td { overflow-wrap: anywhere; }
  .paper td.number { white-space: normal; }
  .paper sup { display: block; margin: .1rem 0 0; }
  .bars li { grid-template-columns: 8.5rem minmax(0, 1fr) 3rem; gap: .5rem; font-size: .8rem; }
}
"""
"""What the page of the paper's tables has beside STYLE."""
