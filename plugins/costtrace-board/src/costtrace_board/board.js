(() => {
  const form = document.getElementById('roi');
  if (!form) return;
  const read = (name) => Number(form.elements[name].value);
  const show = (name, value, digits) => {
    const at = document.getElementById('roi-' + name);
    at.textContent = Number.isFinite(value) ? value.toLocaleString('en-US', {maximumFractionDigits: digits}) : 'unknown';
  };
  const work = () => {
    const hours = 8766, years = Math.round(read('years'));
    const yearly = read('tokens_per_s') * hours * 3600 * read('utilisation');
    let revenue = 0;
    for (let y = 0; y < years; y += 1) {
      revenue += yearly / 1e6 * read('price_per_million') * (1 - read('price_decline')) ** y;
    }
    const total = read('per_gpu_hour') * read('gpus') * hours * years, tokens = yearly * years;
    show('tokens', tokens / 1e6, 0); show('revenue', revenue, 0); show('total_cost', total, 0);
    show('over_purchase_price', revenue / read('purchase_price'), 2); show('over_total_cost', revenue / total, 2);
    show('cost_per_million', total * 1e6 / tokens, 4); show('margin', revenue - total, 0);
  };
  form.addEventListener('input', work);
  form.addEventListener('submit', (event) => event.preventDefault());
})();
