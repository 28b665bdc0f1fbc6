"use strict";
// Brings the page up to date in place, so that scrolling and reading are not disturbed.
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("page").replaceWith(fresh.getElementById("page"));
    document.title = fresh.title;
    document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
  } catch {
    document.getElementById("stale").hidden = false;
  }
}
setInterval(refresh, 5000);
document.addEventListener("visibilitychange", refresh);
