"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // Theme: system, light, dark; remembered where the browser allows it.
  const theme = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  const remember = {
    get() { try { return localStorage.getItem("theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("theme", value); } catch { /* file pages may not store */ } },
  };
  const setTheme = (name) => {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    theme.textContent = `Theme: ${name}`;
    remember.set(name);
  };
  theme.hidden = false;
  setTheme(themes.includes(remember.get()) ? remember.get() : "system");
  theme.addEventListener("click", () => {
    const now = root.dataset.theme || "system";
    setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  // Tables sort by the number behind a cell, else by its text; a third click brings the order back.
  const key = (row, column) => {
    const cell = row.cells[column];
    return "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent.trim();
  };
  const missing = (value) => value === "–" || value === "";
  const compare = (a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent.trim();
      if (head.title) button.title = head.title;
      head.removeAttribute("title");
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (before === "ascending") { body.append(...original); return; }
        const down = before !== "descending";
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sorted = [...original].sort((a, b) => {
          const [x, y] = [key(a, column), key(b, column)];
          return missing(x) || missing(y) ? compare(x, y) : (down ? -1 : 1) * compare(x, y);
        });
        body.append(...sorted);
      });
    });
  }

  // Filter by method and part.
  const groups = [["filter-methods", "method"], ["filter-parts", "part"]];
  const apply = () => {
    const words = [];
    for (const [id, name] of groups) {
      const boxes = all(`#${id} input`);
      const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
      if (off.size) words.push(`${boxes.length - off.size} of ${boxes.length} ${name}s`);
      for (const element of all(`main [data-${name}]`)) {
        element.classList.toggle(`off-${name}`, off.has(element.dataset[name]));
        element.classList.toggle("off", element.matches(".off-method, .off-part"));
      }
    }
    for (const block of all("main .figures")) {
      block.classList.toggle("off", all(".grid > figure", block).every((f) => f.matches(".off")));
    }
    document.getElementById("filter-state").textContent = words.join(", ") || "everything";
  };
  for (const [id] of groups) {
    const group = document.getElementById(id);
    if (!group) continue;
    group.addEventListener("change", apply);
    for (const button of all("[data-all]", group)) {
      button.addEventListener("click", () => {
        for (const box of all("input", group)) box.checked = button.dataset.all === "1";
        apply();
      });
    }
  }
  // Printing shows what the screen shows; a browser that restores ticked boxes is followed.
  if (document.getElementById("filter")) apply();

  // Figures say what is nearest to the pointer; with the keyboard, arrows go from point to point.
  const tip = document.getElementById("tip");
  let hit = null;
  const hide = () => { tip.hidden = true; if (hit) hit.classList.remove("hit"); hit = null; };
  const show = (mark) => {
    if (hit) hit.classList.remove("hit");
    hit = mark.element;
    hit.classList.add("hit");
    tip.textContent = mark.text;
    tip.hidden = false;
    const box = hit.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = box.left + box.width / 2 - size.width / 2;
    tip.style.left = `${Math.max(4, Math.min(left, width - size.width - 4))}px`;
    const above = box.top - size.height - 8;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  const marksOf = (chart) => all("[data-tips]", chart)
    .filter((group) => !group.matches(".off"))
    .flatMap((group) => {
      const texts = JSON.parse(group.dataset.tips);
      const uses = all("use", group);
      const elements = uses.length ? uses : all("path", group);
      return texts.map((text, i) => ({ text, element: elements[i] })).filter((m) => m.element);
    });
  for (const chart of all("main .chart")) {
    if (!chart.querySelector("[data-tips]")) continue;
    chart.classList.add("live");
    chart.setAttribute("tabindex", "0");
    chart.setAttribute("role", "application");
    chart.setAttribute("aria-roledescription", "figure; arrow keys read its points");
    let marks = [];
    let at = -1;
    const point = (event) => {
      marks = marksOf(chart);
      let best = null;
      let nearest = 28;
      for (const mark of marks) {
        const box = mark.element.getBoundingClientRect();
        const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
        const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
        const distance = Math.hypot(dx, dy);
        if (distance < nearest) { nearest = distance; best = mark; }
      }
      if (best) show(best); else hide();
    };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("focus", () => { marks = marksOf(chart); at = -1; });
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !marks.length) return;
      event.preventDefault();
      at = (at + step + marks.length + (at < 0 && step < 0 ? 1 : 0)) % marks.length;
      show(marks[at]);
    });
  }
  document.addEventListener("scroll", hide, { passive: true });
})();
