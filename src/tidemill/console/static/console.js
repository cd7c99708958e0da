// Puts the page's newer state in the old one's place, tells times, and helps with forms.
"use strict";
(() => {
  const page = document.getElementById("page");
  const live = document.getElementById("live");

  // Times: "3 min ago", with the exact one as the tip.
  const steps = [[90, 1, "s"], [5400, 60, "min"], [129600, 3600, "h"], [Infinity, 86400, "d"]];
  const ago = (moment) => {
    const seconds = (Date.now() - moment) / 1000;
    const [, size, unit] = steps.find(([limit]) => Math.abs(seconds) < limit);
    const count = Math.max(0, Math.round(Math.abs(seconds) / size));
    if (Math.abs(seconds) < 5) return "just now";
    return seconds < 0 ? `in ${count} ${unit}` : `${count} ${unit} ago`;
  };
  const tellTimes = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const moment = Date.parse(time.dateTime);
      const text = ago(moment);
      if (time.textContent !== text) time.textContent = text;
      if (!time.title) time.title = new Date(moment).toLocaleString();
    }
  };

  // One tree made like another, node by node: focus, scroll and what is typed stay.
  const isKept = (node) => node.nodeType === 1 && node.hasAttribute("data-keep");
  const fits = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
  // A form in which somebody has typed outlives a state of the page that does not show it.
  const isTyped = (node) => isKept(node) && [...(node.elements || [])].some((field) =>
    field.type === "checkbox" ? field.checked !== field.defaultChecked
      : "defaultValue" in field && field.value !== field.defaultValue);
  const isFormOf = (node, wanted) =>
    isKept(node) && fits(node, wanted) && node.getAttribute("action") === wanted.getAttribute("action");
  const become = (old, next) => {
    if (old.nodeType !== 1) {
      if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
      return;
    }
    if (isKept(old)) return;
    if (old.nodeName === "TIME" && old.getAttribute("datetime") === next.getAttribute("datetime")) return;
    for (const { name, value } of [...next.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) {
      const own = name === "open" || (old.nodeName === "TIME" && name === "title");
      if (!own && !next.hasAttribute(name)) old.removeAttribute(name);
    }
    becomeChildren(old, next);
  };
  const becomeChildren = (old, next) => {
    let child = old.firstChild;
    for (const wanted of [...next.childNodes]) {
      let found = child;
      if (found && !fits(found, wanted) && wanted.id) found = [...old.childNodes].find((node) => node.id === wanted.id) || found;
      if (isKept(wanted)) {
        let form = child;
        while (form && !isFormOf(form, wanted)) form = form.nextSibling;
        found = form || found;
      }
      if (found && fits(found, wanted)) {
        const after = found.nextSibling; // what is passed over moves, not what was found: it may have the focus
        for (let passed = child; passed !== found; passed = child) {
          child = passed.nextSibling;
          old.insertBefore(passed, after);
        }
        become(found, wanted);
        child = found.nextSibling;
      } else {
        old.insertBefore(wanted, child);
      }
    }
    while (child) {
      const gone = child;
      child = child.nextSibling;
      if (!isTyped(gone)) gone.remove();
    }
  };
  const show = (html) => {
    const next = document.createElement("template");
    next.innerHTML = html;
    becomeChildren(page, next.content);
    tellTimes();
  };

  // The stream of this page; closed while nobody looks.
  let stream = null;
  const say = (text, off) => {
    if (!live) return;
    live.hidden = !text;
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle("off", Boolean(off));
  };
  const listen = () => {
    // What a form was answered, or a page that is not there, is told once and stays.
    if (!page || !live || stream || document.hidden || page.hasAttribute("data-still")) return;
    stream = new EventSource(location.href);
    stream.onopen = () => say("", false);
    stream.onmessage = (event) => show(event.data);
    stream.addEventListener("gone", () => location.reload());
    stream.onerror = () => say("The server does not answer; retrying …", true);
  };
  const rest = () => {
    if (stream) stream.close();
    stream = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", listen);
  listen();

  // Light, dark, or as the machine has it.
  const button = document.getElementById("theme");
  if (button) {
    const root = document.documentElement;
    const names = { "": "Theme: auto", light: "Theme: light", dark: "Theme: dark" };
    const now = () => root.dataset.theme || "";
    const label = () => { button.textContent = names[now()]; };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      const next = { "": "light", light: "dark", dark: "" }[now()];
      if (next) root.dataset.theme = next; else delete root.dataset.theme;
      document.cookie = `tidemill_theme=${next}; path=/console; max-age=31536000; samesite=lax`;
      label();
    });
  }

  // Forms that take a while say so, and are sent once; some are asked about first.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && !confirm(form.dataset.confirm)) {
      event.preventDefault();
      return;
    }
    const main = form.dataset.busy && form.querySelector("button.main");
    if (main) {
      main.textContent = form.dataset.busy;
      setTimeout(() => { main.disabled = true; });
    }
  });
  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("button.copy");
    if (!copy) return;
    const text = copy.parentElement.querySelector("pre").textContent;
    const before = copy.firstChild.nodeValue;
    try {
      await navigator.clipboard.writeText(text);
      copy.firstChild.nodeValue = "Copied";
    } catch {
      getSelection().selectAllChildren(copy.parentElement.querySelector("pre"));
      copy.firstChild.nodeValue = "Selected";
    }
    setTimeout(() => { copy.firstChild.nodeValue = before; }, 1500);
  });

  tellTimes();
  setInterval(tellTimes, 10000);
})();
