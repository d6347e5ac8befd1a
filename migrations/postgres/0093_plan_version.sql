-- plan_version: raised by every change that can make an operator's plan wrong. A node that carries an
-- operation on (a lane is drained, a resize is closed) raises config_version alone.
insert into counters (name, value) select 'plan_version', value from counters where name = 'config_version';
