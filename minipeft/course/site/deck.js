const deck = document.querySelector(".deck"), slides = [...deck.children];
const by = (id) => document.getElementById(id);
const now = () => Math.round(deck.scrollLeft / deck.clientWidth);
const go = (i) => deck.scrollTo({ left: Math.max(0, Math.min(i, slides.length - 1)) * deck.clientWidth });
const tell = () => {
  by("count").textContent = `${now() + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${now() + 1}`);
};
let wait;
deck.addEventListener("scroll", () => { clearTimeout(wait); wait = setTimeout(tell, 80); });
const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
addEventListener("keydown", (event) => {
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("pre, .wide, a, button, summary")) return;  // these have their own use of the keys
  event.preventDefault();
  go(now() + steps[event.key] * (event.shiftKey ? -1 : 1));
});
by("back").onclick = () => go(now() - 1);
by("on").onclick = () => go(now() + 1);
for (const id of ["back", "count", "on"]) by(id).hidden = false;
addEventListener("load", () => { go(Number(location.hash.slice(1)) - 1 || 0); tell(); });
let at = 0;
addEventListener("resize", () => go(at));
deck.addEventListener("scrollend", () => { at = now(); });
