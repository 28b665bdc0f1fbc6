"use strict";
// Keeps a page that the server made up to date, and adds keys. Everything can be read without it.

const page = () => document.getElementById("page");
const skew = Date.now() - Number(page().dataset.now);
const now = () => Date.now() - skew;

// --- time

function spoken(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = Math.max(0, parts.findIndex(([n], i) => n || i === 3));
  return parts.slice(first, first + 2).filter(([n]) => n).map(([n, unit]) => `${n} ${unit}`).join(" ") || "0 s";
}

function tickRow(row) {
  const seen = row.querySelector(".seen");
  const bar = seen && seen.querySelector("progress");
  const heard = seen && seen.querySelector("time[data-at]");
  if (bar && heard) bar.value = Math.max(0, Number(bar.dataset.patience) - (now() - Number(heard.dataset.at)) / 1000);
}

function tick() {
  if (document.hidden) return;
  for (const time of page().querySelectorAll("time[data-at]")) {
    const text = spoken(now() - Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
  for (const time of page().querySelectorAll("time[data-in]")) {
    const text = spoken(Number(time.dataset.in) - now());
    if (time.textContent !== text) time.textContent = text;
  }
  page().querySelectorAll("[data-name]").forEach(tickRow);
}
setInterval(tick, 1000);

// --- bringing the page up to date, in place

function morph(old, fresh) {
  if (old.isEqualNode(fresh) || old.matches("[data-keep] *, input, textarea")) return;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.matches("[data-keep]")) return;
  const keyed = new Map([...old.children].filter((it) => it.id).map((it) => [it.id, it]));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const same = next.id ? keyed.get(next.id)
      : at && !at.id && at.nodeType === next.nodeType && at.nodeName === next.nodeName ? at : null;
    if (!same) { old.insertBefore(next, at); continue; }
    if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
    if (same.nodeType === Node.ELEMENT_NODE) morph(same, next);
    else if (same.nodeValue !== next.nodeValue) same.nodeValue = next.nodeValue;
  }
  while (at) { const following = at.nextSibling; at.remove(); at = following; }
}

let wanted = false, running = false, again;
const missed = { events: false, page: false };
function miss(what, is) {
  missed[what] = is;
  const stale = document.getElementById("stale");
  if (stale) stale.hidden = !(missed.events || missed.page);
}

async function refresh() {
  wanted = true;
  if (running) return;
  running = true;
  while (wanted) {
    wanted = false;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.redirected && !location.pathname.startsWith("/ui/login")) { location.reload(); return; }
      if (answer.status === 404) { location.assign("/"); return; }
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      morph(page(), fresh.getElementById("page"));
      miss("page", false);
      document.title = fresh.title;
      const icon = document.querySelector("link[rel=icon]"), href = fresh.querySelector("link[rel=icon]").getAttribute("href");
      if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
    } catch { miss("page", true); clearTimeout(again); again = setTimeout(refresh, 5000); }
    await new Promise((done) => setTimeout(done, 1000));
  }
  running = false;
}

function heard(beats) {
  let unknown = false;
  for (const [name, micros] of Object.entries(beats)) {
    const row = page().querySelector(`[data-name="${CSS.escape(name)}"]`);
    const time = row && row.querySelector(".seen time[data-at]");
    if (time) { time.dataset.at = Math.floor(micros / 1000); time.textContent = spoken(now() - micros / 1000); tickRow(row); }
    else unknown = true;
  }
  if (unknown && document.getElementById("empty")) refresh();
  const here = document.getElementById("facts");
  if (!here || !beats[here.dataset.name]) return;
  refresh();
  clearTimeout(recorded);
  recorded = setTimeout(refresh, 3000); // the run that it ended is recorded a moment later
}
let recorded;

function listen() {
  // What happened between the making of this page and the connection is told as well.
  const events = new EventSource(`/events?heartbeats=true&after=${page().dataset.seq}`);
  events.onmessage = (event) => {
    const here = document.getElementById("facts");
    if (!here || JSON.parse(event.data).service === here.dataset.name) refresh();
  };
  events.addEventListener("heartbeats", (event) => heard(JSON.parse(event.data)));
  events.onopen = () => { if (missed.events) refresh(); miss("events", false); };
  events.onerror = () => {
    miss("events", true);
    // A browser gives up for good on an answer such as a proxy's 502.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}

if (document.getElementById("headline")) {
  listen();
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { tick(); refresh(); } });
  setInterval(() => { if (!document.hidden) refresh(); }, 60000); // bars move on
}

if (page().dataset.poll) setInterval(() => { if (!document.hidden) refresh(); }, 1000 * page().dataset.poll);

// --- searching while typing

// A page that began empty has its search field only later.
let typing;
document.addEventListener("input", ({ target: search }) => {
  if (search.id !== "q") return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const url = new URL(location.href);
    if (search.value) url.searchParams.set("q", search.value); else url.searchParams.delete("q");
    url.searchParams.delete("cursor");
    history.replaceState(null, "", url);
    refresh();
  }, 150);
});

// --- when a schedule is due, while it is typed

function byTheClock(zone) {
  const form = { weekday: "short", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" };
  let clock;
  try { clock = new Intl.DateTimeFormat("en-GB", { ...form, timeZone: zone }); }
  catch { clock = new Intl.DateTimeFormat("en-GB", { ...form, timeZone: "UTC" }); } // a zone that the browser does not know
  return (moment) => {
    const part = Object.fromEntries(clock.formatToParts(new Date(moment)).map(({ type, value }) => [type, value]));
    const seconds = part.second === "00" ? "" : `:${part.second}`;
    return `${part.weekday} ${part.year}-${part.month}-${part.day} ${part.hour}:${part.minute}${seconds} ${part.timeZoneName}`;
  };
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

let asked = 0;
async function preview(place, schedule, zone) {
  const mine = ++asked;
  let shown = [];
  if (schedule) {
    try {
      const body = JSON.stringify({ schedule, time_zone: zone });
      const answer = await fetch("/schedule/preview", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const found = await answer.json();
      if (answer.ok) {
        const list = document.createElement("ol");
        list.append(...found.items.map(byTheClock(zone)).map((text) => element("li", text)));
        shown = [element("p", `Due ${found.says}:`), list];
      } else shown = [element("p", found.detail.replace(/^time_zone:/, "In the time zone:"), "refused")];
    } catch { shown = [element("p", "When it is due is not known: no answer.", "refused")]; }
  }
  if (mine === asked) place.replaceChildren(...shown);
}

let thinking;
document.addEventListener("input", ({ target: { id, form } }) => {
  if (id !== "schedule" && id !== "time_zone") return;
  clearTimeout(thinking);
  const place = document.getElementById("moments");
  thinking = setTimeout(() => preview(place, form.schedule.value.trim(), form.time_zone.value.trim() || place.dataset.zone), 300);
});

// --- copying

document.addEventListener("click", async ({ target }) => {
  if (!target.matches(".copy")) return;
  const code = target.parentElement.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); } // there is none without TLS, but on this machine
  catch {
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) return; // it is selected
  }
  target.textContent = "Copied";
  setTimeout(() => { target.textContent = "Copy"; }, 2000);
});

// --- keys

function move(by) {
  const rows = [...document.querySelectorAll(".row .name > a:first-child")].filter((it) => it.offsetParent);
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  if (next) { next.focus(); next.closest(".row").scrollIntoView({ block: "nearest" }); }
}

function along(bar, by) {
  choose(bar, Number(bar.getAttribute("aria-valuenow")) + by);
}

function choose(bar, wanted) {
  const titles = [...bar.querySelectorAll("rect > title")].map((it) => it.textContent);
  const at = Math.min(titles.length, Math.max(1, wanted));
  bar.setAttribute("aria-valuenow", at);
  bar.setAttribute("aria-valuetext", titles[at - 1]);
  bar.querySelector(".read").textContent = titles[at - 1];
  bar.querySelectorAll("rect").forEach((it, i) => it.classList.toggle("chosen", i === at - 1));
}

// Who has no mouse to hover with can tap.
document.addEventListener("click", ({ target }) => {
  const bar = target.matches("rect") && target.closest("[role=slider]");
  if (bar) choose(bar, [...bar.querySelectorAll("rect")].indexOf(target) + 1);
});

const help = document.getElementById("help");
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("[role=slider]")) {
    const across = Number(event.target.dataset.across || 1), down = across > 1 ? 1 : -1;
    const by = { ArrowLeft: -across, ArrowRight: across, ArrowUp: -down, ArrowDown: down, Home: -1e9, End: 1e9 }[event.key];
    if (by) {
      along(event.target, by);
      event.preventDefault();
      return;
    }
  }
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const search = document.getElementById("q");
  if (event.key === "/" && search) { search.focus(); search.select(); event.preventDefault(); }
  else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "?" && help && !help.open) help.showModal();
});

const keys = document.getElementById("keys");
if (keys) {
  keys.hidden = false;
  keys.addEventListener("click", () => help.showModal());
}

// --- light, dark, or as the system has it

const theme = document.getElementById("theme");
function label() { theme.textContent = `Theme: ${document.documentElement.dataset.theme || "auto"}`; }
if (theme) {
  theme.hidden = false;
  theme.title = "Change the theme";
  theme.addEventListener("click", () => {
    const order = ["", "light", "dark"];
    const next = order[(order.indexOf(document.documentElement.dataset.theme || "") + 1) % 3];
    if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
    try { localStorage.setItem("theme", next); } catch { /* it holds for this page */ }
    label();
  });
  label();
}
document.documentElement.classList.add("scripted");
