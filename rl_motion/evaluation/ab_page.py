"""The page of a blind comparison: A and B side by side, answers by key or mouse, nothing sent anywhere.

It is made from trials alone, which know no arms: what the page does not hold it cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rl_motion.evaluation.ab import QUESTIONS, Trial, page_id
from rl_motion.motion.viewer import Extras, Panel, Row, motion_page

TITLE = "Which motion is better?"
_NOTES = (
    "Every pair shows a text and two motions, A and B. Say of each pair which one moves more like a real person, and "
    "which one does better what the text says. “No difference” is an answer too.\n"
    "Watch both as often as you like; drag a figure to turn it."
)


def ab_page(trials: Sequence[Trial]) -> str:
    """The whole page as HTML text; it works offline and saves answers as a file."""
    rows = [
        Row(trial.text, [Panel("A", trial.a_FJ3, fps=trial.fps), Panel("B", trial.b_FJ3, fps=trial.fps)])
        for trial in trials
    ]
    data = {"page": page_id(trials), "pairs": [trial.id for trial in trials], "questions": list(QUESTIONS)}
    return motion_page(TITLE, rows, _NOTES, Extras(_STYLE, _TOP, _bottom(), data, _SCRIPT))


def _bottom() -> str:
    asked = "".join(
        f'<div class="ask" id="ask-{name}" role="group" aria-labelledby="q-{name}"><span id="q-{name}">'
        f"{escape(words)}</span><div>{_buttons()}</div></div>"
        for name, words in QUESTIONS.items()
    )
    return _BOTTOM.format(asked=asked)


def _buttons() -> str:
    choices = (("A", "a", "A"), ("same", "n", "No difference"), ("B", "b", "B"))
    return "".join(
        f'<button type="button" aria-pressed="false" data-choice="{choice}"><kbd>{key}</kbd>{words}</button>'
        for choice, key, words in choices
    )


_TOP = """<div class="ab"><article id="start" hidden>
<label for="name">Your name, or any name you like</label>
<div><input id="name" maxlength="60" autocomplete="off" spellcheck="false">
<button type="button" id="begin" class="main">Start</button></div></article>
<div id="state" hidden><span id="place"></span><div class="done"><i id="done"></i></div><span id="rater"></span>
<button type="button" id="save">Save answers</button></div>
<article id="end" hidden><h2 id="end-words"></h2><div>
<button type="button" id="save-end" class="main">Save answers</button>
<button type="button" id="back">Back to the pairs</button>
<button type="button" id="anew">Start anew, for another person</button></div></article>
<p id="said" role="status"></p></div>"""

_BOTTOM = """<div class="asks" id="asks" hidden><div>{asked}
<div class="moves"><span>Keys: <kbd>a</kbd> <kbd>n</kbd> <kbd>b</kbd>, <kbd>↑</kbd> <kbd>↓</kbd> question,
<kbd>Enter</kbd> goes on, <kbd>Space</kbd> plays</span>
<button type="button" id="previous"><kbd>←</kbd>Previous</button>
<button type="button" id="next" class="main"><kbd>→</kbd>Next</button></div></div></div>"""

_STYLE = """
[hidden]{display:none!important}
#all{display:none}
main section{display:none}
main section.now{display:block;content-visibility:visible}
main footer{display:none}
.begun header{display:none}
.begun .ab{padding-top:.8rem}
canvas{height:clamp(11rem,100vh - 25rem,26rem)}
.ab{max-width:78rem;margin:0 auto;padding:0 1.25rem}
.ab article{background:var(--card);border:1px solid var(--line);border-radius:.9rem;margin:.6rem 0 1rem;
padding:1rem 1.1rem}
.ab article>div{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:.5rem}
input#name{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:.5rem;
padding:.3rem .7rem;flex:1;min-width:10rem;max-width:24rem}
#state{display:flex;flex-wrap:wrap;gap:.4rem 1rem;align-items:center;margin:0 0 .7rem;color:var(--dim);font-size:.92rem;
font-variant-numeric:tabular-nums}
#rater{overflow-wrap:anywhere;max-width:20rem}
.done{flex:1;min-width:8rem;height:.45rem;border-radius:9px;background:var(--line);overflow:hidden}
.done i{display:block;height:100%;width:0;background:var(--focus)}
#said{margin:0;color:var(--dim);font-size:.9rem}
#said:not(:empty){margin:0 0 .7rem}
button.main{background:var(--focus);border-color:var(--focus);color:#fff;font-weight:600}
@media(prefers-color-scheme:dark){button.main{color:#0f1218}}
.asks{position:sticky;bottom:0;background:var(--bg);border-top:1px solid var(--line)}
.asks>div{max-width:78rem;margin:0 auto;padding:.6rem 1.25rem .7rem}
.ask{display:flex;flex-wrap:wrap;gap:.35rem 1rem;align-items:center;justify-content:space-between;padding:.3rem .6rem;
border-left:.25rem solid transparent;border-radius:.3rem}
.ask.now{border-left-color:var(--focus);background:var(--card)}
.ask>div,.moves{display:flex;flex-wrap:wrap;gap:.5rem}
.ask span{font-weight:600}
.asks button{display:flex;gap:.5rem;align-items:center}
.ask>div{display:grid;grid-template-columns:5.2rem minmax(10.2rem,auto) 5.2rem}
.ask button[aria-pressed=true]{background:var(--focus);border-color:var(--focus);color:#fff;font-weight:600}
@media(prefers-color-scheme:dark){.ask button[aria-pressed=true]{color:#0f1218}}
.moves{margin-top:.5rem;align-items:center;color:var(--dim);font-size:.85rem}
.moves span{margin-right:auto}
kbd{font:600 .8rem ui-monospace,SFMono-Regular,Menlo,monospace;border:1px solid currentColor;border-radius:.3rem;
padding:0 .35rem;opacity:.75}
"""

_SCRIPT = r"""
"use strict";
{
const PAGE = JSON.parse(document.getElementById("extras").textContent);
const $ = id => document.getElementById(id);
const STORE = "rl_motion ab " + PAGE.page, CHOICES = ["A", "same", "B"], KEYS = {a: "A", n: "same", b: "B"};
const sections = [...document.querySelectorAll("main section")];
let rater = "", answers = {}, place = 0, asked = 0, kept = true, saved = true;

// What a browser kept may be of anybody's making: only what is an answer is taken.
function restore() {
  let found = null;
  try { found = JSON.parse(localStorage.getItem(STORE)); } catch (error) { kept = false; }
  if (!found || typeof found.rater !== "string" || typeof found.answers !== "object" || !found.answers) return;
  rater = found.rater.slice(0, 60);
  for (const pair of PAGE.pairs) for (const question of PAGE.questions) {
    const choice = found.answers[pair] && found.answers[pair][question];
    if (CHOICES.includes(choice)) (answers[pair] = answers[pair] || {})[question] = choice;
  }
}

function keep() {
  try { localStorage.setItem(STORE, JSON.stringify({rater, answers})); kept = true; } catch (error) { kept = false; }
}

const whole = pair => PAGE.questions.every(question => (answers[pair] || {})[question]);
const left = () => PAGE.pairs.filter(pair => !whole(pair)).length;
const say = text => { $("said").textContent = text; };

function show(to) {
  place = to;
  asked = 0;
  const over = place >= sections.length;
  sections.forEach((section, i) => section.classList.toggle("now", i === place));
  document.body.classList.add("begun");
  $("start").hidden = true;
  $("state").hidden = false;
  $("asks").hidden = over;
  $("end").hidden = !over;
  document.querySelector(".bar").hidden = over;
  if (!over) { rows[place].seconds = 0; rows[place].play(rows[place].playing); }
  refresh();
  say(kept ? "" : "This browser keeps nothing: save your answers before you close the page.");
  scrollTo(0, 0);
}

function refresh() {
  const pair = PAGE.pairs[place], given = answers[pair] || {}, open = left();
  $("place").textContent = pair ? `Pair ${place + 1} of ${PAGE.pairs.length}` : "The end";
  $("rater").textContent = rater;
  $("done").style.width = `${100 * (PAGE.pairs.length - open) / PAGE.pairs.length}%`;
  $("previous").disabled = place === 0;
  PAGE.questions.forEach((question, i) => {
    const group = $("ask-" + question);
    group.classList.toggle("now", i === asked);
    for (const button of group.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(given[question] === button.dataset.choice));
  });
  $("end-words").textContent = open ? `${open} of ${PAGE.pairs.length} pairs are not answered yet.`
    : "That was the last pair. Thank you! Save your answers and send the file to whoever asked you.";
}

function answer(question, choice) {
  const pair = PAGE.pairs[place];
  (answers[pair] = answers[pair] || {})[question] = choice;
  saved = false;
  asked = Math.min(PAGE.questions.indexOf(question) + 1, PAGE.questions.length - 1);
  keep();
  refresh();
}

function move(step) {
  const to = place + step;
  if (to < 0 || to > sections.length) return;
  if (step > 0 && to <= sections.length && !whole(PAGE.pairs[place])) {
    say("Both questions want an answer; “no difference” is one.");
    return;
  }
  show(to);
}

function begin() {
  const name = $("name").value.trim().replace(/\s+/g, " ");
  if (!name) { say("Any name will do."); $("name").focus(); return; }
  rater = name;
  keep();
  show(0);
  document.activeElement.blur();
}

function save() {
  const content = {format: 1, page: PAGE.page, rater, saved: new Date().toISOString(), answers};
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], {type: "application/json"}));
  const name = rater.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "") || "somebody";
  link.download = `ab-${PAGE.page.slice(0, 8)}-${name}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
  const open = left();
  say(`Saved as ${link.download}${open ? `, with ${open} pairs that are not answered yet` : ""}.`);
}

function anew() {
  if (!saved) { say("Save the answers first: they would be gone."); return; }
  rater = "";
  answers = {};
  try { localStorage.removeItem(STORE); } catch (error) { kept = false; }
  sections.forEach(section => section.classList.remove("now"));
  welcome();
}

function welcome() {
  document.body.classList.remove("begun");
  for (const id of ["state", "end", "asks"]) $(id).hidden = true;
  document.querySelector(".bar").hidden = true;
  $("start").hidden = false;
  $("name").value = "";
  say("");
  $("name").focus();
}

function goOn() {
  const open = PAGE.pairs.findIndex(pair => !whole(pair));
  show(open < 0 ? PAGE.pairs.length : open);
}

document.addEventListener("keydown", event => {
  if (event.defaultPrevented || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const on = event.target, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (on.id === "name") { if (key === "Enter") begin(); return; }
  if ($("asks").hidden || on instanceof HTMLSelectElement) return;
  if (on instanceof HTMLInputElement && key.startsWith("Arrow")) return;
  if (on instanceof HTMLButtonElement && (key === "Enter" || key === " ")) return;
  if (KEYS[key]) answer(PAGE.questions[asked], KEYS[key]);
  else if (key === "Enter" || key === "ArrowRight") move(1);
  else if (key === "ArrowLeft") move(-1);
  else if (key === "ArrowUp" || key === "ArrowDown") {
    asked = Math.max(0, Math.min(PAGE.questions.length - 1, asked + (key === "ArrowDown" ? 1 : -1)));
    refresh();
  } else if (key === " ") rows[place].play(!rows[place].playing);
  else return;
  event.preventDefault();
});
for (const question of PAGE.questions) for (const button of $("ask-" + question).querySelectorAll("button"))
  button.onclick = () => answer(question, button.dataset.choice);
// A button that the mouse pressed gives the keys back: Enter would press it again.
document.addEventListener("click", event => {
  const pressed = event.target.closest("button, input[type=range]");
  if (event.detail > 0 && pressed) pressed.blur();
});
$("begin").onclick = begin;
$("next").onclick = () => move(1);
$("previous").onclick = () => move(-1);
$("save").onclick = $("save-end").onclick = save;
$("back").onclick = () => { const open = PAGE.pairs.findIndex(pair => !whole(pair)); show(Math.max(0, open)); };
$("anew").onclick = anew;
addEventListener("beforeunload", event => { if (!kept && !saved) event.preventDefault(); });
restore();
if (rater) goOn(); else welcome();
document.body.dataset.ready = "yes";
}
"""
