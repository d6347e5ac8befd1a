// One customer's orders. `order` is another number when the same events are applied in another order.
export default function reduce(state, event) {
  const { n, amount } = event.body;
  if (typeof amount !== "number") throw new TypeError(`amount is ${JSON.stringify(amount)}`);
  state ??= { orders: 0, total: 0, order: 0 };
  state.orders += 1;
  state.total += amount;
  state.order = (state.order * 31 + n) % 1000003;
  return state;
}
