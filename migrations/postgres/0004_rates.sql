-- How many requests a key may send: a rate such as 100/s, and how many at once. None: any number.
alter table keys add column rate text;
alter table keys add column burst bigint;
