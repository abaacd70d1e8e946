"use strict";
// Everything shown is set as text, never as markup: answers and documents are untrusted.
(function () {
  const PAGE = 10;
  const byId = (id) => document.getElementById(id);
  const one = (selector, within) => (within || document).querySelector(selector);
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));

  function element(name, attributes, children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    for (const child of children || []) made.append(child);  // strings become text nodes
    return made;
  }

  // ---------------------------------------------------------------- tasks: one at a time
  const tasks = all("article.task");
  function show(hash) {
    const target = byId(hash.slice(1));
    const task = target && target.closest("article.task");
    const everything = hash === "#all";
    if (!everything && !task && target && one("nav.tasks a[aria-current]")) return;  // a place outside the tasks: leave them as they are
    const current = task || tasks[0];
    for (const article of tasks) article.hidden = !everything && article !== current;
    for (const anchor of all("nav.tasks a")) {
      const chosen = anchor.dataset.task === (everything ? "all" : current.id);
      if (chosen) anchor.setAttribute("aria-current", "true"); else anchor.removeAttribute("aria-current");
    }
    if (target && target !== task) target.scrollIntoView();
  }
  document.body.classList.add("switched");
  if (tasks.length > 1) {
    for (const anchor of all("nav.tasks a")) {
      anchor.addEventListener("click", (event) => {
        event.preventDefault();
        history.pushState(null, "", anchor.hash);
        show(anchor.hash);
      });
    }
    window.addEventListener("hashchange", () => show(location.hash));
    window.addEventListener("popstate", () => show(location.hash));
    show(location.hash);
  }

  // ---------------------------------------------------------------- printing: everything open
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const box of opened) box.open = true;
  });
  window.addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

  // ---------------------------------------------------------------- the comparison table
  function comparison(id, data) {
    const table = one(`[data-comparison="${id}"]`);
    const rows = all("tbody tr", table);
    const filter = one(`[data-filter="${id}"]`), family = one(`[data-family="${id}"]`), baseline = one(`[data-baseline="${id}"]`);
    const count = one(`[data-count="${id}"]`);

    function narrow() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.dataset.text.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word)) || (family.value !== "" && row.dataset.family !== family.value);
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} strategies`;
    }
    filter.addEventListener("input", narrow);
    family.addEventListener("change", narrow);
    narrow();

    const heads = all("thead th", table);
    for (const head of heads) {
      const button = one("button", head);
      if (!button) continue;
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && head.cellIndex === 0);
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[head.cellIndex].dataset.value;
        const sorted = rows.slice().sort((a, b) => {
          const x = key(a), y = key(b);
          if (x === "" || y === "") return (x === "") - (y === "");  // what was not measured stays last
          const order = head.cellIndex === 0 ? x.localeCompare(y) : Number(x) - Number(y);
          return up ? order : -order;
        });
        one("tbody", table).append(...sorted);
      });
    }

    if (baseline) baseline.addEventListener("change", () => {
      const found = data.differences[baseline.value];
      for (const row of rows) {
        const cell = one("[data-difference]", row), d = found[row.dataset.strategy];
        cell.dataset.value = d && d[3] !== null ? d[3] : "";
        cell.replaceChildren();
        if (!d) { cell.append("–"); continue; }
        cell.append(d[0], " ", element("span", { class: "interval" }, [d[1]]), " ", element("span", { class: "why" }, [d[2]]));
      }
      one("[data-baseline-name]", table).textContent = baseline.value;
    });
  }

  // ---------------------------------------------------------------- all items
  function browser(id, data) {
    const box = one(`[data-items="${id}"]`);
    if (!box) return;
    const { texts, documents, outcomes, questions, answers } = data.packed;
    const search = one(`[data-search="${id}"]`), which = one(`[data-which="${id}"]`), found = one(`[data-found="${id}"]`), more = one(`[data-more="${id}"]`);
    const text = (place) => place === null || place === undefined ? "" : texts[place];
    const names = Object.keys(answers), cites = names.some((name) => answers[name].cited);
    const places = questions.id.map((_, place) => place);
    const outcome = (name, place) => answers[name].outcome[place] === null ? "" : outcomes[answers[name].outcome[place]];
    const right = (name, place) => outcome(name, place) === (questions.answerable[place] ? "correct" : "abstained");
    let haystacks = null, matching = places, shown = 0;

    function haystack(place) {
      const parts = [text(questions.id[place]), text(questions.text[place]), text(questions.cluster[place]), ...questions.targets[place].map(text)];
      for (const name of names) parts.push(text(answers[name].prediction[place]));
      return parts.join("\n").toLowerCase();
    }

    function documentBox(place, gold) {
      const body = documents[place][1] === null
        ? element("p", { class: "why" }, ["The run has not kept this text."])
        : element("blockquote", { dir: "auto" }, [text(documents[place][1])]);
      return element("details", {}, [element("summary", {}, [text(documents[place][0]) + (gold ? " (gold)" : "")]), body]);
    }

    function ids(name, key, place) {
      const listed = answers[name][key] && answers[name][key][place];
      return listed && listed.length ? listed.map((d) => text(documents[d][0])).join(", ") : "–";
    }

    function card(place) {
      const identity = text(questions.id[place]);
      const rows = names.filter((name) => answers[name].outcome[place] !== null).map((name) => {
        const row = element("tr", name === data.recommended ? { class: "recommended" } : {}, [element("th", { scope: "row" }, [name])]);
        const error = text(answers[name].error[place]).replaceAll("_", " ");
        row.append(element("td", { dir: "auto" }, [text(answers[name].prediction[place])]),
          element("td", {}, [data.marks[outcome(name, place)] || outcome(name, place), ...(error ? [element("span", { class: "why" }, [error])] : [])]),
          element("td", {}, [ids(name, "retrieved", place)]));
        if (cites) row.append(element("td", {}, [ids(name, "cited", place)]));
        return row;
      });
      const head = element("tr", {}, ["Strategy", "Answer", "Outcome", "Read", ...(cites ? ["Cited"] : [])].map((label) => element("th", { scope: "col" }, [label])));
      const table = element("table", { class: "words" }, [element("caption", {}, ["Answers"]), element("thead", {}, [head]), element("tbody", {}, rows)]);
      const read = new Set(questions.gold[place]);
      for (const name of names) for (const d of (answers[name].retrieved && answers[name].retrieved[place]) || []) read.add(d);
      const asked = questions.text[place] === null
        ? element("p", { class: "why" }, ["The run has not kept the text of this item."])
        : element("blockquote", { dir: "auto" }, [text(questions.text[place])]);
      const targets = questions.targets[place].map(text).join(" / ") || "no answer";
      return element("div", { class: "question", "data-item": identity }, [
        element("h5", {}, ["Item " + identity]), asked,
        element("p", { class: "small" }, ["Right: ", element("bdi", {}, [targets])]),
        element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answers to item " + identity }, [table]),
        ...Array.from(read, (d) => documentBox(d, questions.gold[place].includes(d)))]);
    }

    function extend() {
      box.append(...matching.slice(shown, shown + PAGE).map(card));
      shown = Math.min(shown + PAGE, matching.length);
      more.hidden = shown >= matching.length;
      found.textContent = `${matching.length} of ${places.length} items` + (shown < matching.length ? `, the first ${shown} shown` : "");
    }

    function narrow() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      if (words.length && !haystacks) haystacks = places.map(haystack);
      matching = places.filter((place) => {
        if (which.value === "differ" && new Set(data.contenders.filter((n) => n in answers).map((name) => right(name, place))).size < 2) return false;
        if (which.value === "wrong" && (!(data.recommended in answers) || right(data.recommended, place))) return false;
        return words.every((word) => haystacks[place].includes(word));
      });
      shown = 0;
      box.replaceChildren();
      extend();
    }

    let waiting = 0;
    search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(narrow, 120); });
    which.addEventListener("change", narrow);
    more.addEventListener("click", extend);
    narrow();
  }

  for (const task of tasks) {
    const data = JSON.parse(byId(task.id + "-data").textContent);
    comparison(task.id, data);
    // Cards of a task are made when it comes into view: a page of many tasks opens at once.
    const box = one(`[data-items="${task.id}"]`);
    if (box) new IntersectionObserver((entries, observer) => {
      if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); browser(task.id, data); }
    }, { rootMargin: "800px" }).observe(box.parentElement);
  }
})();
