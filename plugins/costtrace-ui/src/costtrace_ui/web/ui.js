"use strict";
(() => {
  let frozen = false, due = 0;
  const every = () => Number(document.getElementById("main").dataset.every);
  const wire = () => {
    const button = document.getElementById("freeze");
    if (!button) return;
    button.hidden = false;
    button.setAttribute("aria-pressed", String(frozen));
    button.textContent = frozen ? "frozen" : "freeze";
    button.onclick = () => { frozen = !frozen; wire(); };
  };
  const busy = () => frozen || document.hidden || !!document.getSelection().toString()
    || !!document.activeElement.closest("main");
  const read = async () => {
    try {
      if (!busy()) {
        const answer = await fetch(location.href, { headers: { "Accept": "text/html" } });
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
        if (answer.ok && fresh && !busy()) {
          const left = [...document.querySelectorAll(".scroll")].map(one => one.scrollLeft);
          document.getElementById("main").replaceWith(document.adoptNode(fresh));
          document.querySelectorAll(".scroll").forEach((one, place) => { one.scrollLeft = left[place] || 0; });
          document.body.dataset.reads = String(Number(document.body.dataset.reads || 0) + 1);
          wire();
        }
      }
    } catch { /* the server has ended: what was read stays */ }
    plan();
  };
  const plan = () => { clearTimeout(due); if (every()) due = setTimeout(read, every()); };
  wire();
  plan();
})();
