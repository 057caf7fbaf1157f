"""The style sheet and the script of the motion viewer's page, kept apart from the Python that fills it in."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#14181f;--dim:#5b6675;--line:#dfe3ea;
--stage:#eef1f5;--grid:#c3cad6;--left:#d9541e;--right:#1f6fd6;--body:#3b4452;--trail:#7a52c7;--good:#0c7a4b;--bad:#b3261e;
--focus:#1f6fd6}
@media(prefers-color-scheme:dark){:root{--bg:#0f1218;--card:#171b23;--ink:#e8ecf3;--dim:#98a3b3;--line:#2a313d;
--stage:#11151c;--grid:#39424f;--left:#ff8a4c;--right:#5aa9ff;--body:#c9d1dd;--trail:#b794ff;--good:#4cc38a;
--bad:#ff8178;--focus:#5aa9ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:78rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.6rem;line-height:1.25;letter-spacing:-.01em;margin:0 0 .4rem;overflow-wrap:anywhere}
.notes{color:var(--dim);max-width:70ch;margin:0 0 1rem;white-space:pre-line;overflow-wrap:anywhere}
.bar{position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--line)}
.bar>div{max-width:78rem;margin:0 auto;padding:.6rem 1.25rem;display:flex;flex-wrap:wrap;gap:.5rem 1.25rem;
align-items:center}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;color:var(--dim);font-size:.85rem;margin-left:auto}
.legend i{display:inline-block;width:1.1rem;height:.28rem;border-radius:9px;margin-right:.4rem;
vertical-align:middle}
button,select{font:inherit;font-size:.9rem;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:.5rem;padding:.3rem .75rem;cursor:pointer}
button:hover,select:hover{border-color:var(--dim)}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
label{color:var(--dim);font-size:.9rem}
section{background:var(--card);border:1px solid var(--line);border-radius:.9rem;margin:1.1rem 0;
padding:1rem 1.1rem;content-visibility:auto;contain-intrinsic-size:auto 26rem}
h2{font-size:1.05rem;font-weight:600;margin:0 0 .7rem;overflow-wrap:anywhere}
.panels{display:grid;gap:.9rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr))}
figure{margin:0;min-width:0}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.2rem .6rem;margin-bottom:.4rem;
font-size:.9rem;color:var(--dim);overflow-wrap:anywhere}
h2.motions{margin:1.8rem 0 .2rem}
.note{color:var(--dim);font-size:.9rem;margin:-.4rem 0 .7rem;overflow-wrap:anywhere}
.verdict{font-weight:600}
.verdict.yes{color:var(--good)}
.verdict.no{color:var(--bad)}
canvas{display:block;width:100%;height:20rem;background:var(--stage);border-radius:.6rem;cursor:grab;
touch-action:pan-y}
canvas:active{cursor:grabbing}
.controls{display:flex;gap:.75rem;align-items:center;margin-top:.7rem}
.controls button{min-width:4.6rem}
input[type=range]{flex:1;min-width:0;accent-color:var(--focus)}
output{font-variant-numeric:tabular-nums;color:var(--dim);font-size:.85rem;min-width:6.6rem;text-align:right}
footer{color:var(--dim);font-size:.85rem;padding:.5rem 0 2.5rem}
"""

SCRIPT = r"""
"use strict";
const DATA = JSON.parse(document.getElementById("motions").textContent);
const J = DATA.parents.length, HOLD = 0.8, START = {yaw: 0.6, pitch: 0.22};
const side = new Array(J).fill("body");
DATA.left.forEach(j => side[j] = "left");
DATA.right.forEach(j => side[j] = "right");
const TURNS = {ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]};
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let colours = {}, speed = 1, last = 0, ticking = false;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["left", "right", "body", "trail", "grid", "stage"])
    colours[name] = style.getPropertyValue("--" + name).trim();
}

function decode(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length), view = new DataView(bytes.buffer);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const out = new Float32Array(raw.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = view.getInt16(2 * i, true) / 1000;
  return out;
}

class Panel {
  constructor(canvas, data, row) {
    this.canvas = canvas; this.context = canvas.getContext("2d"); this.data = data; this.row = row;
    this.frames = data.frames; this.fps = data.fps; this.joints = null; this.pose = new Float32Array(3 * J);
  }
  load() {
    if (this.joints) return;
    this.joints = decode(this.data.joints);
    const low = [1e9, 1e9], high = [-1e9, -1e9];
    let top = 0;
    for (let f = 0; f < this.frames; f++) for (let j = 0; j < J; j++) {
      const i = 3 * (f * J + j);
      low[0] = Math.min(low[0], this.joints[i]); high[0] = Math.max(high[0], this.joints[i]);
      low[1] = Math.min(low[1], this.joints[i + 2]); high[1] = Math.max(high[1], this.joints[i + 2]);
      top = Math.max(top, this.joints[i + 1]);
    }
    const extent = Math.hypot(high[0] - low[0], high[1] - low[1]) / 2;
    // A motion that stays in place is framed as a whole; one that travels is followed.
    this.follow = extent > 1.6;
    this.centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
    const tall = Math.min(top, 3) + 0.4;
    this.radius = Math.max(1.02, Math.min(extent, 1.25), tall * 0.51);
    this.height = Math.max(0.86, tall * 0.43);
  }
  target(frame) {
    if (!this.follow) return this.centre;
    let x = 0, z = 0, n = 0;
    for (let d = -15; d <= 15; d += 3) {
      const i = 3 * J * Math.max(0, Math.min(this.frames - 1, Math.round(frame) + d));
      x += this.joints[i]; z += this.joints[i + 2]; n++;
    }
    return [x / n, z / n];
  }
  interpolate(frame) {
    const a = Math.floor(frame), b = Math.min(a + 1, this.frames - 1), w = frame - a;
    for (let i = 0; i < 3 * J; i++)
      this.pose[i] = this.joints[3 * J * a + i] * (1 - w) + this.joints[3 * J * b + i] * w;
  }
  draw(seconds) {
    this.load();
    const ratio = devicePixelRatio || 1, w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    if (!w) return;
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio); this.canvas.height = Math.round(h * ratio);
    }
    const frame = Math.min(seconds * this.fps, this.frames - 1), g = this.context;
    this.interpolate(frame);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.lineCap = g.lineJoin = "round";
    const project = this.camera(this.target(frame), w, h);
    this.ground(g, project, this.target(frame));
    this.trail(g, project, frame);
    this.shadow(g, project);
    this.body(g, project);
  }
  camera(target, w, h) {
    const {yaw, pitch} = this.row, cy = Math.cos(yaw), sy = Math.sin(yaw);
    const cp = Math.cos(pitch), sp = Math.sin(pitch);
    const distance = 4.2 * this.radius, focal = Math.min(w * 1.1, h) * 1.86;
    return (x, y, z) => {
      x -= target[0]; y -= this.height; z -= target[1];
      const side = cy * x - sy * z, near = sy * x + cy * z;
      const up = cp * y - sp * near, depth = Math.max(0.1, distance - (sp * y + cp * near));
      return [w / 2 + side * focal / depth, h * 0.51 - up * focal / depth, depth, focal / depth];
    };
  }
  ground(g, project, target) {
    const step = 0.5, reach = 3;
    const x0 = Math.round(target[0] / step) * step, z0 = Math.round(target[1] / step) * step;
    g.strokeStyle = colours.grid; g.lineWidth = 1;
    const segment = (ax, az, bx, bz) => {
      const fade = 1 - Math.hypot((ax + bx) / 2 - target[0], (az + bz) / 2 - target[1]) / reach;
      if (fade <= 0) return;
      const a = project(ax, 0, az), b = project(bx, 0, bz);
      g.globalAlpha = Math.min(1, fade * 1.3);
      g.beginPath(); g.moveTo(a[0], a[1]); g.lineTo(b[0], b[1]); g.stroke();
    };
    for (let i = -reach; i <= reach; i += step) for (let k = -reach; k < reach; k += step) {
      segment(x0 + i, z0 + k, x0 + i, z0 + k + step);
      segment(x0 + k, z0 + i, x0 + k + step, z0 + i);
    }
    g.globalAlpha = 1;
  }
  path(g, project, from, to) {
    g.beginPath();
    for (let f = from; f <= to; f++) {
      const i = 3 * J * f, p = project(this.joints[i], 0, this.joints[i + 2]);
      if (f === from) g.moveTo(p[0], p[1]); else g.lineTo(p[0], p[1]);
    }
  }
  trail(g, project, frame) {
    g.strokeStyle = colours.trail; g.lineWidth = 1.5; g.globalAlpha = 0.28;
    this.path(g, project, 0, this.frames - 1); g.stroke();
    g.lineWidth = 2.5; g.globalAlpha = 0.9;
    this.path(g, project, 0, Math.floor(frame));
    const now = project(this.pose[0], 0, this.pose[2]);
    g.lineTo(now[0], now[1]); g.stroke();
    g.globalAlpha = 1;
  }
  shadow(g, project) {
    g.strokeStyle = g.fillStyle = "#000"; g.globalAlpha = 0.1;
    g.beginPath();
    for (let j = 1; j < J; j++) {
      const p = 3 * DATA.parents[j], a = project(this.pose[p], 0, this.pose[p + 2]);
      const b = project(this.pose[3 * j], 0, this.pose[3 * j + 2]);
      g.lineWidth = 0.07 * b[3];
      g.moveTo(a[0], a[1]); g.lineTo(b[0], b[1]);
    }
    g.stroke();
    g.globalAlpha = 1;
  }
  body(g, project) {
    const at = [];
    for (let i = 0; i < 3 * J; i += 3) at.push(project(this.pose[i], this.pose[i + 1], this.pose[i + 2]));
    const parts = [];
    for (let j = 1; j < J; j++) {
      if (j === DATA.head) continue;
      const a = at[DATA.parents[j]], b = at[j];
      parts.push({depth: (a[2] + b[2]) / 2, a, b, colour: colours[side[j]], width: 0.055});
    }
    const head = at[DATA.head];
    parts.push({depth: head[2], a: head, b: head, colour: colours.body, width: 0.19});
    parts.sort((p, q) => q.depth - p.depth);
    for (const part of parts) {
      const width = part.width * part.b[3];
      // A rim in the colour of the background parts limbs that cross; flat ends keep it off the joints.
      const rim = [colours.stage, width + 4, "butt"], limb = [part.colour, width, "round"];
      for (const [colour, thickness, cap] of [rim, limb]) {
        g.strokeStyle = colour; g.lineWidth = thickness; g.lineCap = part.a === part.b ? "round" : cap;
        g.beginPath(); g.moveTo(part.a[0], part.a[1]); g.lineTo(part.b[0], part.b[1] + 0.01); g.stroke();
      }
    }
  }
}

class Row {
  constructor(section, data) {
    this.section = section; this.yaw = START.yaw; this.pitch = START.pitch;
    this.seconds = 0; this.playing = !still; this.visible = false;
    const canvases = [...section.querySelectorAll("canvas")];
    this.panels = canvases.map((canvas, i) => new Panel(canvas, data[i], this));
    this.fps = Math.max(...this.panels.map(p => p.fps));
    this.length = Math.max(1 / this.fps, ...this.panels.map(p => (p.frames - 1) / p.fps));
    this.button = section.querySelector("button");
    this.slider = section.querySelector("input");
    this.output = section.querySelector("output");
    this.slider.max = Math.round(this.length * this.fps);
    this.button.onclick = () => this.play(!this.playing);
    this.slider.oninput = () => { this.play(false); this.seconds = this.slider.value / this.fps; this.draw(); };
    this.panels.forEach(p => this.orbit(p.canvas));
    this.play(this.playing);
  }
  play(on) {
    this.playing = on; this.button.textContent = on ? "Pause" : "Play";
    refreshAll(); this.draw(); wake();
  }
  turn(yaw, pitch) {
    this.yaw += yaw; this.pitch = Math.max(-0.1, Math.min(1.5, this.pitch + pitch)); this.draw();
  }
  orbit(canvas) {
    let from = null;
    canvas.onpointerdown = e => { from = e; canvas.setPointerCapture(e.pointerId); };
    canvas.onpointermove = e => {
      if (!from) return;
      this.turn((from.clientX - e.clientX) * 0.01, (e.clientY - from.clientY) * 0.01); from = e;
    };
    canvas.onpointerup = canvas.onpointercancel = () => { from = null; };
    canvas.onkeydown = e => {
      const turn = TURNS[e.key];
      if (turn) this.turn(...turn); else if (e.key === " ") this.play(!this.playing); else return;
      e.preventDefault();
    };
  }
  advance(dt) {
    this.seconds += dt;
    if (this.seconds > this.length + HOLD) this.seconds = 0;
    this.draw();
  }
  draw() {
    if (!this.visible) return;
    const now = Math.min(this.seconds, this.length);
    this.panels.forEach(p => p.draw(now));
    this.slider.value = Math.round(now * this.fps);
    this.output.textContent = now.toFixed(1) + " / " + this.length.toFixed(1) + " s";
  }
}

function refreshAll() {
  const all = document.getElementById("all");
  all.textContent = rows.some(r => r.playing) ? "Pause all" : "Play all";
}

function tick(time) {
  const dt = Math.min(0.1, (time - last) / 1000) * speed;
  last = time;
  const active = rows.filter(r => r.visible && r.playing);
  active.forEach(r => r.advance(dt));
  ticking = active.length > 0;
  if (ticking) requestAnimationFrame(tick);
}

function wake() {
  if (ticking) return;
  ticking = true;
  requestAnimationFrame(time => { last = time; tick(time); });
}

const rows = [];
readColours();
document.querySelectorAll("section").forEach((section, i) => rows.push(new Row(section, DATA.rows[i])));
refreshAll();
const observer = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const row = rows.find(r => r.section === entry.target);
    row.visible = entry.isIntersecting; row.draw();
  }
  wake();
}, {rootMargin: "80px"});
rows.forEach(row => observer.observe(row.section));
document.getElementById("all").onclick = () => {
  const on = !rows.some(r => r.playing);
  rows.forEach(r => r.play(on));
};
document.getElementById("speed").onchange = e => { speed = Number(e.target.value); };
document.getElementById("view").onchange = e => {
  const [yaw, pitch] = e.target.value.split(",").map(Number);
  rows.forEach(r => { r.yaw = yaw; r.pitch = pitch; r.draw(); });
};
const redraw = () => { readColours(); rows.forEach(r => r.draw()); };
matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
addEventListener("resize", redraw);
"""
