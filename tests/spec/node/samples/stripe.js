// What a customer has paid, invoice by invoice.
export default function reduce(state, event) {
  const { type, created, data: { object: invoice } } = event.body;
  state ??= { customer: invoice.customer, paid: {}, invoices: [] };
  if (type !== "invoice.paid" || state.invoices.includes(invoice.id)) return state;
  state.paid[invoice.currency] = (state.paid[invoice.currency] ?? 0) + invoice.amount_paid;
  state.invoices.push(invoice.id);
  state.last = new Date(created * 1000).toISOString();
  return state;
}
