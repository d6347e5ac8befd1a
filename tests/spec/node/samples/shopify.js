// What was ordered in a shop: money in cents, pieces by article.
export default function reduce(state, event) {
  state ??= { shop: event.headers["x-shopify-shop-domain"], orders: [], cents: 0, pieces: {} };
  const order = event.body;
  state.orders.push(order.name);
  state.cents += Math.round(parseFloat(order.total_price) * 100);
  for (const { sku, quantity } of order.line_items) {
    state.pieces[sku] = (state.pieces[sku] ?? 0) + quantity;
  }
  return state;
}
