for (const form of document.querySelectorAll("form.filter")) {
  const rows = document.querySelectorAll(`#${form.dataset.table} tbody tr`);
  form.addEventListener("change", () => {
    const asked = new FormData(form).get("verdict");
    for (const row of rows) row.hidden = asked !== "all" && row.className !== asked;
  });
}
