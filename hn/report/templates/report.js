"use strict";
// What is sorted, shown and hidden is in the page's address: #sort=reward&dir=asc&category=counting&q=star&hide=reno_50
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const state = () => new URLSearchParams(location.hash.slice(1));
  const change = (changes) => {
    const next = state();
    for (const [key, value] of Object.entries(changes)) value ? next.set(key, value) : next.delete(key);
    history.replaceState(null, "", next.size ? `#${next}` : location.pathname + location.search);
    apply();
  };

  const table = document.getElementById("table");
  const headings = all("th[data-sort]", table);
  const body = table.tBodies[0];
  const original = [...body.rows];

  function sortTable(options) {
    const heading = headings.find((one) => one.dataset.sort === options.get("sort"));
    headings.forEach((one) => one.removeAttribute("aria-sort"));
    if (!heading) return body.append(...original);
    const direction = options.get("dir") || heading.dataset.first;
    const column = headings.indexOf(heading);
    const value = (row) => row.cells[column].dataset.value;
    const sign = direction === "asc" ? 1 : -1;
    // what was not measured comes last in both directions
    body.append(...[...original].sort((a, b) => (value(a) === "") - (value(b) === "") || sign * (value(a) - value(b))));
    heading.setAttribute("aria-sort", direction === "asc" ? "ascending" : "descending");
  }
  headings.forEach((heading) => heading.querySelector("button").addEventListener("click", () => {
    const now = heading.getAttribute("aria-sort");
    const first = heading.dataset.first;
    const shown = now && (now === "ascending" ? "asc" : "desc");
    const dir = shown === first ? (first === "asc" ? "desc" : "asc") : first;
    change({ sort: heading.dataset.sort, dir: dir === first ? "" : dir });
  }));

  function switchPanels(options) {
    for (const group of all(".switch")) {
      const buttons = all("button", group);
      const chosen = buttons.find((one) => one.dataset.value === options.get(group.dataset.key)) || buttons[0];
      buttons.forEach((one) => one.setAttribute("aria-pressed", one === chosen));
      for (const panel of all(`[data-panel="${group.dataset.key}"]`)) panel.hidden = panel.dataset.value !== chosen.dataset.value;
    }
  }
  all(".switch button").forEach((button, _, every) => button.addEventListener("click", () => {
    const group = button.parentElement;
    change({ [group.dataset.key]: button === group.firstElementChild ? "" : button.dataset.value });
  }));

  const gallery = document.getElementById("gallery");
  const rows = gallery ? all("tbody[data-index]", gallery) : [];
  const hidden = (options) => new Set((options.get("hide") || "").split(",").filter(Boolean));

  function filterGallery(options) {
    const [category, words, away] = [options.get("category") || "", (options.get("q") || "").toLowerCase().trim(), hidden(options)];
    for (const cell of all("[data-method]", gallery)) cell.hidden = away.has(cell.dataset.method);
    for (const row of rows) {
      const verdicts = new Set(all("td:not([hidden])", row).map((cell) => cell.dataset.correct).filter(Boolean));
      row.hidden = (category && row.dataset.category !== category) || !row.dataset.prompt.includes(words)
        || (options.has("differ") && verdicts.size < 2);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    gallery.querySelector(".count").textContent = shown === rows.length ? `${shown} prompts` : `${shown} of ${rows.length} prompts`;
    gallery.querySelector(".nothing").hidden = shown > 0;
    const search = gallery.querySelector("[data-filter=q]");
    if (document.activeElement !== search) search.value = options.get("q") || "";
    gallery.querySelector("[data-filter=differ]").checked = options.has("differ");
    for (const button of all("[data-filter=category] button", gallery)) button.setAttribute("aria-pressed", button.dataset.value === category);
    for (const button of all("[data-filter=hide] button", gallery)) button.setAttribute("aria-pressed", !away.has(button.dataset.value));
  }

  if (gallery) {
    gallery.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    gallery.querySelector("[data-filter=q]").addEventListener("input", (event) => change({ q: event.target.value }));
    gallery.querySelector("[data-filter=differ]").addEventListener("change", (event) => change({ differ: event.target.checked ? "1" : "" }));
    gallery.querySelector("[data-reset]").addEventListener("click", () => change({ q: "", category: "", differ: "" }));
    for (const button of all("[data-filter=category] button", gallery)) button.addEventListener("click", () => change({ category: button.dataset.value }));
    for (const button of all("[data-filter=hide] button", gallery)) button.addEventListener("click", () => {
      const away = hidden(state());
      if (!away.delete(button.dataset.value)) away.add(button.dataset.value);
      change({ hide: [...away].join(",") });
    });

    const large = document.getElementById("large");
    let current = null;
    const show = (button) => {
      current = button;
      const small = button.querySelector("img");
      const [picture, cell] = [large.querySelector("img"), button.closest("td")];
      picture.src = small.src;
      picture.alt = small.alt;
      picture.className = small.className;
      const reward = cell.querySelector(".said span").textContent;
      const verdict = { yes: ", correct", no: ", not correct" }[cell.dataset.correct] || "";
      const name = all("thead th", gallery).find((one) => one.dataset.method === cell.dataset.method).textContent;
      large.querySelector("b").textContent = `${name}: reward ${reward}${verdict}`;
      large.querySelector(".prompt").textContent = cell.closest("tbody").querySelector(".caption span").firstChild.textContent;
      if (!large.open) large.showModal();
    };
    const move = (by) => {
      const shown = all(".picture", gallery).filter((one) => one.offsetParent);
      if (shown.length) show(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
    };
    for (const button of all(".picture", gallery)) button.addEventListener("click", () => show(button));
    for (const button of all("[data-move]", large)) button.addEventListener("click", () => move(Number(button.dataset.move)));
    large.querySelector("[data-close]").addEventListener("click", () => large.close());
    large.addEventListener("click", (event) => event.target === large && large.close());
    large.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) move(by);
    });
    large.addEventListener("close", () => current && current.focus());
  }

  function apply() {
    const options = state();
    sortTable(options);
    switchPanels(options);
    if (gallery) filterGallery(options);
  }
  addEventListener("hashchange", apply);
  apply();
})();
