"""The review page: its markup, style and script, without any foreign text; prompts come as JSON, set as text."""

from __future__ import annotations

import json
from collections.abc import Mapping

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#14181f;--dim:#586273;--line:#dfe3ea;--soft:#eef1f5;
--accepted:#0b7044;--rejected:#b3261e;--edited:#1b62bd;--unreviewed:#586273;--focus:#1f6fd6}
@media(prefers-color-scheme:dark){:root{--bg:#0f1218;--card:#171b23;--ink:#e8ecf3;--dim:#9aa5b5;--line:#2a313d;
--soft:#1e242e;--accepted:#4cc38a;--rejected:#ff8178;--edited:#6fb3ff;--unreviewed:#9aa5b5;--focus:#5aa9ff}}
*{box-sizing:border-box}
[hidden]{display:none!important}
html,body{height:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
display:flex;flex-direction:column}
header,main,footer{width:100%;max-width:64rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:1.1rem}
.top{display:flex;flex-wrap:wrap;gap:.2rem 1rem;align-items:baseline}
h1{font-size:1.15rem;letter-spacing:-.01em;margin:0}
.top span{color:var(--dim);font-size:.9rem;overflow-wrap:anywhere}
#who{margin-left:auto}
.bar{display:flex;height:.5rem;border-radius:9px;overflow:hidden;background:var(--line);margin:.7rem 0 .4rem}
.bar i{display:block;width:0;background:var(--state)}
.counts{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;font-size:.9rem;color:var(--dim);font-variant-numeric:tabular-nums}
.counts b{color:var(--ink);font-weight:600}
.filters{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:.8rem 0 0}
label{color:var(--dim);font-size:.9rem;display:flex;gap:.4rem;align-items:center}
label.wide{flex:1;min-width:13rem}
input,select,button,textarea{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:.5rem}
input,select{font-size:.95rem;padding:.3rem .6rem;min-width:0}
input{flex:1}
input:hover,select:hover,button:hover{border-color:var(--dim)}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
main{flex:1;padding-top:1rem;padding-bottom:1rem}
article{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--state,var(--line));
border-radius:.9rem;padding:1.2rem 1.6rem 1.4rem}
.accepted{--state:var(--accepted)}.rejected{--state:var(--rejected)}.edited{--state:var(--edited)}
.unreviewed{--state:var(--unreviewed)}
.meta{display:flex;flex-wrap:wrap;gap:.4rem .5rem;align-items:center;font-size:.9rem;color:var(--dim)}
.meta span{background:var(--soft);border-radius:9px;padding:.08rem .6rem}
.meta .state{color:var(--state);font-weight:650;background:none;border:1.5px solid var(--state);margin-left:auto}
.meta .place{background:none;padding-left:0;font-variant-numeric:tabular-nums}
#text{font-size:clamp(1.6rem,3.4vw,2.15rem);line-height:1.3;font-weight:600;letter-spacing:-.015em;margin:.9rem 0 1rem;
overflow-wrap:anywhere}
textarea{display:block;width:100%;font-size:clamp(1.4rem,3vw,1.85rem);line-height:1.3;padding:.5rem .8rem;
margin:.9rem 0 1rem;resize:vertical;field-sizing:content;min-height:6rem}
#error{color:var(--rejected);font-weight:600;margin:.2rem 0 .8rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:8.5rem 1fr;gap:.55rem 1rem;margin:0;border-top:1px solid var(--line);
padding-top:1rem}
dt{color:var(--dim);font-size:.9rem}
dd{margin:0;min-width:0;overflow-wrap:anywhere}
dd ol,dd ul{margin:0;padding-left:1.2rem}
dd ul{list-style:none;padding:0}
.tokens{display:flex;flex-wrap:wrap;gap:.25rem .7rem}
.tokens small,.past small{color:var(--dim);font-size:.75em;margin-left:.25em}
.past{color:var(--dim);font-size:.92rem}
.past s{margin-left:.4rem}
footer{position:sticky;bottom:0;background:var(--bg);border-top:1px solid var(--line);padding-top:.7rem;
padding-bottom:.8rem;max-width:none}
footer>div{max-width:61rem;margin:0 auto;display:flex;flex-wrap:wrap;gap:.5rem;align-items:center}
button{padding:.4rem .85rem .4rem .5rem;cursor:pointer;display:flex;gap:.5rem;align-items:center;white-space:nowrap}
button:disabled{opacity:.45;cursor:default}
kbd{font:600 .85rem ui-monospace,SFMono-Regular,Menlo,monospace;background:var(--soft);border:1px solid var(--line);
border-bottom-width:2px;border-radius:.35rem;padding:.05rem .45rem;min-width:1.6rem;text-align:center}
.go{margin-left:auto}
#said{max-width:61rem;margin:0 auto .5rem;min-height:1.5em;color:var(--dim);overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
@media(max-width:46rem){dl{grid-template-columns:1fr;gap:.1rem}dd{margin-bottom:.6rem}
header,main,footer{padding-left:1rem;padding-right:1rem}}
"""

SCRIPT = r"""
"use strict";
const START = JSON.parse(document.getElementById("start").textContent);
const $ = id => document.getElementById(id);
const SIGNS = {unreviewed: "○", accepted: "✓", rejected: "✗", edited: "✎", undone: "↶"};
const STATES = ["accepted", "edited", "rejected"];
const KEYS = {a: "accept", r: "reject", e: "edit", u: "undo", j: "next", k: "previous", ArrowRight: "next",
  ArrowDown: "next", ArrowLeft: "previous", ArrowUp: "previous", "/": "find"};
let rows = [], view = [], place = 0, busy = false, editing = false, mine = [];

const number = n => n.toLocaleString("en");
const row = () => view[place];
function make(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text;  // never as markup: captions are foreign
  if (name) element.className = name;
  return element;
}
function say(text) { $("said").textContent = text; }

async function ask(path, body) {
  const headers = {"X-Token": START.token};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body)});
  return [answer.status, await answer.json()];
}

function filter() {
  const operation = $("operation").value, state = $("state").value, words = $("search").value.trim().toLowerCase();
  const kept = row();
  view = rows.filter(one => (!operation || one.operation === operation) && (!state || one.review === state) &&
    (!words || [one.text, one.id, ...one.metas, ...one.sources].some(text => text.toLowerCase().includes(words))));
  place = Math.max(0, view.indexOf(kept));
  show();
}

function count() {
  const found = {accepted: 0, edited: 0, rejected: 0, unreviewed: 0};
  for (const one of rows) found[one.review]++;
  const done = rows.length - found.unreviewed;
  const share = rows.length ? Math.floor(1000 * done / rows.length) / 10 : 0;
  $("reviewed").textContent = `${number(done)} / ${number(rows.length)}`;
  $("share").textContent = `${share} %`;
  for (const state of STATES) {
    $("n-" + state).textContent = number(found[state]);
    $("bar-" + state).style.width = `${rows.length ? 100 * found[state] / rows.length : 0}%`;
  }
}

function list(tag, items) {
  const element = document.createElement(tag);
  for (const item of items) element.append(item instanceof Node ? item : make("li", item));
  return element;
}

function past(one) {
  const item = make("li", `${SIGNS[one.decision]} ${one.decision} by ${one.who}`);
  item.append(make("small", one.when.replace("T", " ").replace("Z", " UTC")));
  if (one.before) item.append(make("s", one.before));
  return item;
}

function show() {
  const one = row();
  $("card").hidden = !one;
  $("nothing").hidden = Boolean(one);
  for (const id of ["accept", "reject", "edit"]) $(id).disabled = !one;
  $("undo").disabled = !mine.length && !(one && one.review !== "unreviewed");
  $("previous").disabled = place <= 0;
  $("next").disabled = place >= view.length - 1;
  count();
  if (!one) return;
  $("card").className = one.review;
  $("place").textContent = `${number(place + 1)} of ${number(view.length)}`;
  $("op").textContent = one.operation;
  $("length").textContent = `${one.length} frames · ${one.seconds.toFixed(1)} s`;
  $("split").textContent = one.split.replaceAll("_", " ");
  $("badge").textContent = `${SIGNS[one.review]} ${one.review}`;
  $("text").textContent = one.text;
  $("metas").replaceChildren(list("ol", one.metas));
  $("sources").replaceChildren(list("ul", one.sources));
  $("tokens").replaceChildren(...one.tokens.map(token => {
    const cut = token.lastIndexOf("/"), word = make("span", token.slice(0, cut));
    word.append(make("small", token.slice(cut + 1)));
    return word;
  }));
  $("made").textContent =
    `${one.author} (${one.model}) · plausibility ${one.plausibility} · difficulty ${one.difficulty}`;
  $("past").replaceChildren(list("ul", one.history.map(past)));
  $("past").hidden = $("past-name").hidden = !one.history.length;
}

function move(step) {
  const to = place + step;
  if (to < 0 || to >= view.length) { say(step > 0 ? "That was the last one." : "This is the first one."); return; }
  place = to;
  say("");
  show();
}

function edit(on, text) {
  editing = on;
  $("text").hidden = on;
  $("editor").hidden = $("edit-keys").hidden = !on;
  $("keys").hidden = on;
  $("error").hidden = true;
  say("");
  if (on) { $("editor").value = text; $("editor").focus(); $("editor").select(); } else document.activeElement.blur();
}

function complain(message) {
  if (editing) { $("error").textContent = message; $("error").hidden = false; } else say(message);
}

// The status of the answer; 0 where nothing was asked, or nobody answered.
async function decide(one, decision, text) {
  if (busy || !one) return 0;
  busy = true;
  try {
    const body = {id: one.id, seen: one.history.length, decision};
    if (decision === "edit") body.text = text;
    const [status, answer] = await ask("/decide", body);
    if (answer.row) Object.assign(one, answer.row);
    if (status !== 200) { complain(answer.message); show(); }
    return status;
  } catch (error) {
    complain("The server does not answer. Start `rl-motion prompts review` again and open its new address.");
    return 0;
  } finally { busy = false; }
}

async function judge(decision, text) {
  const one = row(), seen = one && one.history.length;
  if (await decide(one, decision, text) !== 200) return;
  if (one.history.length !== seen) mine.push(one);
  if (editing) edit(false);
  const last = place >= view.length - 1;
  if (!last) place++;
  show();
  say(`${SIGNS[one.review]} ${one.review}: ${one.text}${last ? " (that was the last one)" : ""}`);
}

async function undo() {
  const one = mine.length ? mine[mine.length - 1] : row();
  if (!one || one.review === "unreviewed") { mine.pop(); say("There is nothing to undo."); show(); return; }
  const at = view.indexOf(one);
  if (at >= 0) place = at;
  const status = await decide(one, "undo");
  if (status && status !== 507) mine.pop();  // what could not be saved can be tried again
  if (status !== 200) return;
  show();
  say(`↶ undone; ${one.review} again: ${one.text}`);
}

function act(name) {
  if (name === "accept" || name === "reject") judge(name);
  else if (name === "edit") { if (row() && !busy) edit(true, row().text); }
  else if (name === "undo") undo();
  else if (name === "next") move(1);
  else if (name === "previous") move(-1);
  else if (name === "find") { $("search").focus(); $("search").select(); }
  else if (name === "save") judge("edit", $("editor").value);
  else if (name === "cancel") edit(false);
}

document.addEventListener("keydown", event => {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (editing) {
    const name = {Enter: "save", Escape: "cancel"}[event.key];
    if (name && event.target === $("editor")) { event.preventDefault(); if (!event.repeat) act(name); }
    return;
  }
  if (event.target === $("search")) {
    if (event.key === "Enter" || event.key === "Escape") event.target.blur();
    return;
  }
  if (event.target.tagName === "SELECT") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const name = KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (!name) return;
  event.preventDefault();
  // A key that is held down walks, but never decides about prompts that nobody has read.
  if (!event.repeat || name === "next" || name === "previous") act(name);
});
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => { act(button.dataset.act || button.id); });
for (const id of ["operation", "state"]) $(id).addEventListener("change", () => { filter(); $(id).blur(); });
$("search").addEventListener("input", filter);

async function begin() {
  $("pool").textContent = START.pool;
  $("who").textContent = `You are ${START.who}`;
  const [status, answer] = await ask("/prompts");
  if (status !== 200) { say(answer.message); return; }
  rows = answer.prompts;
  for (const name of [...new Set(rows.map(one => one.operation))].sort()) $("operation").append(new Option(name, name));
  view = rows;
  place = Math.max(0, rows.findIndex(one => one.review === "unreviewed"));
  document.body.dataset.ready = "yes";
  show();
}
begin().catch(() => say("The server does not answer. Start `rl-motion prompts review` again."));
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>Prompt review</title><style nonce="{nonce}">{style}</style></head>
<body>
<header>
<div class="top"><h1>Prompt review</h1><span id="pool"></span><span id="who"></span></div>
<div class="bar" aria-hidden="true"><i class="accepted" id="bar-accepted"></i><i class="edited" id="bar-edited"></i>
<i class="rejected" id="bar-rejected"></i></div>
<div class="counts"><span><b id="reviewed">0</b> reviewed (<span id="share"></span>)</span>
<span><b id="n-accepted">0</b> accepted</span><span><b id="n-edited">0</b> edited</span>
<span><b id="n-rejected">0</b> rejected</span></div>
<div class="filters"><label>Operation <select id="operation"><option value="">all</option></select></label>
<label>State <select id="state"><option value="">all</option><option>unreviewed</option><option>accepted</option>
<option>rejected</option><option>edited</option></select></label>
<label class="wide">Search <input id="search" type="search" placeholder="/ to search" autocomplete="off"></label></div>
</header>
<main>
<article id="card" hidden>
<div class="meta"><span class="place" id="place"></span><span id="op"></span><span id="length"></span>
<span id="split"></span><span class="state" id="badge"></span></div>
<div id="text" dir="auto"></div>
<textarea id="editor" aria-label="New text" rows="2" spellcheck="true" hidden></textarea>
<div id="error" role="alert" hidden></div>
<dl><dt>Meta-motions</dt><dd id="metas"></dd><dt>From captions</dt><dd id="sources"></dd>
<dt>Tokens</dt><dd id="tokens" class="tokens"></dd><dt>Made by</dt><dd id="made"></dd>
<dt id="past-name">Decisions</dt><dd id="past" class="past"></dd></dl>
</article>
<p id="nothing" hidden>No prompt fits. Change the filters or the search.</p>
</main>
<footer><p id="said" role="status" aria-live="polite"></p>
<div id="keys"><button type="button" id="accept"><kbd>a</kbd>accept</button>
<button type="button" id="reject"><kbd>r</kbd>reject</button><button type="button" id="edit"><kbd>e</kbd>edit</button>
<button type="button" id="undo"><kbd>u</kbd>undo</button>
<button type="button" class="go" id="previous"><kbd>k</kbd><kbd>←</kbd>previous</button>
<button type="button" id="next"><kbd>j</kbd><kbd>→</kbd>next</button></div>
<div id="edit-keys" hidden><button type="button" data-act="save"><kbd>Enter</kbd>save</button>
<button type="button" data-act="cancel"><kbd>Esc</kbd>cancel</button></div></footer>
<script type="application/json" id="start">{start}</script>
<script nonce="{nonce}">{script}</script></body></html>
"""


def page(nonce: str, start: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        nonce: of the policy that it is served with; nothing else runs.
        start: token, who and pool, for the script.
    """
    # '<' can end the script element; JSON allows it to be written as an escape.
    packed = json.dumps(start).replace("<", "\\u003c")
    return _PAGE.format(nonce=nonce, style=STYLE, script=SCRIPT, start=packed)
