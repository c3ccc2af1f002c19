const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
const kept = (...value) => { try { return localStorage[value.length ? "setItem" : "getItem"]("theme", ...value); } catch { return null; } };
const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
if (kept()) root.dataset.theme = kept();
addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const tell = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; };
  button.onclick = () => { root.dataset.theme = theme() === "dark" ? "light" : "dark"; kept(root.dataset.theme); tell(); };
  dark.onchange = tell;
  button.hidden = false;
  tell();
  const scrolls = () => document.querySelectorAll("pre, .wide, .slide, nav.contents").forEach((part) => {
    const more = part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight + 1;
    if (more) part.tabIndex = 0; else part.removeAttribute("tabindex");  // so that the keys can scroll it
  });
  scrolls();
  addEventListener("resize", scrolls);
  addEventListener("toggle", scrolls, true);
});
