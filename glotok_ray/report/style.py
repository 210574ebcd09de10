"""The style sheet of report.html: system fonts, light and dark, one column on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fafaf8;
  --card: #ffffff;
  --ink: #1d2126;
  --soft: #5c6570;
  --line: #e2e4e7;
  --accent: #1f6fc4;
  --warn: #a3480d;
}
@media (prefers-color-scheme: dark) {
  :root {
  --page: #14171b;
  --card: #1c2025;
  --ink: #e8eaed;
  --soft: #a2abb5;
  --line: #30363d;
  --accent: #6cb0f5;
  --warn: #f0a35e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 {
  font-size: clamp(1.6rem, 5vw, 2.3rem);
  line-height: 1.15;
  margin: .5rem 0 .75rem;
  letter-spacing: -.02em;
}
h2 { font-size: 1.3rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .4rem 0 .9rem; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
nav {
  display: flex;
  flex-wrap: wrap;
  gap: .35rem 1rem;
  padding: .75rem 0;
  border-block: 1px solid var(--line);
  font-size: .9rem;
}
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { margin-top: 2.5rem; scroll-margin-top: 1rem; }
.cards {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .75rem;
  margin: 1.25rem 0;
}
.card {
  background: var(--card);
  border: 1px solid var(--line);
  border-radius: .6rem;
  padding: .8rem .95rem;
}
.card b {
  display: block;
  font-size: 1.45rem;
  line-height: 1.2;
  font-variant-numeric: tabular-nums;
}
.card span { color: var(--soft); font-size: .82rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
table.figures { table-layout: fixed; }
.figures th:nth-child(1) { width: 12rem; }
.figures th:nth-child(2) { width: 9.5rem; }
.versions { max-width: 42rem; }
th, td {
  text-align: left;
  vertical-align: top;
  padding: .5rem .75rem .5rem 0;
  border-bottom: 1px solid var(--line);
}
th { color: var(--soft); font-weight: 600; font-size: .8rem; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; font-weight: 600; }
td.protocol { color: var(--soft); font-size: .86rem; }
td, code, pre { overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre {
  background: var(--card);
  border: 1px solid var(--line);
  border-radius: .6rem;
  padding: 1rem;
  margin: .5rem 0;
  white-space: pre-wrap;
}
summary { cursor: pointer; color: var(--accent); }
img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
figure { margin: 0; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem; }
.strip { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: .3rem; }
.pairs img, .strip img { width: 100%; }
.class {
  display: grid;
  grid-template-columns: 9rem 1fr;
  gap: .3rem 1rem;
  align-items: center;
  padding: .4rem 0;
  border-bottom: 1px solid var(--line);
}
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem; }
.plots figure, .wide {
  background: var(--card);
  border: 1px solid var(--line);
  border-radius: .6rem;
  padding: .5rem;
}
.plots img { width: 100%; }
.wide { max-width: 42rem; }
.wide img { width: 100%; }
.missing {
  margin: 1rem 0;
  border-left: 3px solid var(--warn);
  padding: .1rem 0 .1rem .8rem;
  color: var(--warn);
}
.missing ul { margin: .2rem 0; padding-left: 1.1rem; }
@media (max-width: 40rem) {
  .class { grid-template-columns: 1fr; }
  .strip { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .pairs { grid-template-columns: repeat(2, 1fr); }
  thead { display: none; }
  tr { display: block; padding: .55rem 0; border-bottom: 1px solid var(--line); }
  td { display: block; border: 0; padding: .05rem 0; }
}
"""
