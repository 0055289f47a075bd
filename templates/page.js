// Brings the page up to date: the server makes it anew, and what differs is exchanged here.
"use strict";

const PAUSE = 5000;

/** What somebody marks, to copy a command, stays. */
function isMarking(section) {
  const selection = getSelection();
  return !selection.isCollapsed && section.contains(selection.anchorNode);
}

function exchange(fresh) {
  document.title = fresh.title;
  const main = document.querySelector("main");
  const sections = [...fresh.querySelectorAll("main > section")];
  const ids = new Set(sections.map((section) => section.id));
  for (const old of main.querySelectorAll(":scope > section")) {
    if (!ids.has(old.id)) old.remove();
  }
  let place = null;
  for (const section of sections) {
    const old = document.getElementById(section.id);
    if (!old) {
      main.insertBefore(section, place ? place.nextSibling : main.firstChild);
      place = section;
      continue;
    }
    place = old;
    if (old.innerHTML === section.innerHTML || isMarking(old)) continue;
    const wide = old.querySelector(".wide");
    const [left, focused] = [wide ? wide.scrollLeft : 0, wide && wide === document.activeElement];
    old.replaceChildren(...section.childNodes);
    const next = old.querySelector(".wide");
    if (next) {
      next.scrollLeft = left;
      if (focused) next.focus({ preventScroll: true });
    }
  }
}

async function refresh() {
  if (!document.hidden) {
    const silent = document.getElementById("silent");
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
      silent.hidden = true;
    } catch {
      silent.hidden = false;
    }
  }
  setTimeout(refresh, PAUSE);
}

document.getElementById("reload").hidden = true;
setTimeout(refresh, PAUSE);
