/* ---- the filter: rows of all sorted tables whose name or text has these words ---- */
for (const input of document.querySelectorAll("[data-filter]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    const rows = [...document.querySelectorAll("table.sorted tbody tr")];
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const shown = rows.filter(row => !row.hidden).length;
    document.querySelector("[data-shown]").textContent = wanted ? `${shown} of ${rows.length} lines` : "";
  });
}
