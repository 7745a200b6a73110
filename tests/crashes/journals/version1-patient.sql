PRAGMA application_id = 1634168881;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    agent INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    sum BLOB NOT NULL
);
INSERT INTO "records" VALUES(1,0.0,0,'run','{"schema":1,"id":"afdfb6df98e3465a91d96f90ed94d7b5","settings":{"max_concurrent":3,"inbox_capacity":32,"budget":{"tokens":10000000,"cost_usd":null,"calls":null}},"about":{}}',X'0D8EFEBCB16908A4514B572A9A044F70');
INSERT INTO "records" VALUES(2,0.0,1,'spawned','{"name":"mayor","parent":0,"by":0,"life":0,"key":null,"work":{"agent":{"function":"tests.crashes._cases:patient"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"mayor","timeout":null,"restart":null}]}}',X'F6F8E495526202D842C5201EB13ABCC3');
INSERT INTO "records" VALUES(3,0.0,2,'spawned','{"name":"slow talker","parent":1,"by":1,"life":0,"key":"0","work":{"agent":{"function":"tests.crashes._cases:slow_talker"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"slow talker","timeout":null,"restart":null}]}}',X'1D25F1B4017931290A5611F57B583690');
INSERT INTO "records" VALUES(4,1.0,1,'operated','{"life":0,"key":"2","kind":"step note","value":"niav ni"}',X'F673B12C7CB4390D2FDE39E1BAB9E8AD');
INSERT INTO "records" VALUES(5,10.0,1,'sent','{"id":1,"from":2,"content":"late","reply_to":null,"topic":null,"ask":false,"life":0,"key":"0"}',X'4D79DB6BAD8E028BB8A18A673AF70700');
INSERT INTO "records" VALUES(6,10.0,1,'received','{"id":1,"life":0,"key":"3"}',X'381B0A8F43C4864BDDE5F4722DA77C59');
INSERT INTO "records" VALUES(7,10.0,2,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0},"value":"told"}',X'C850082B78D3E3887C5FE651BDDBD73B');
INSERT INTO "records" VALUES(8,10.0,1,'operated','{"life":0,"key":"4","kind":"wait","value":2}',X'24F573EE385E857208E46EE98C6CA954');
INSERT INTO "records" VALUES(9,10.0,1,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0},"value":["niav ni","late","told"]}',X'1E2044F840DD1B37770D6981280188B3');
INSERT INTO "records" VALUES(10,10.0,0,'closed','{"how":"ended"}',X'5F0E77F9AE05A54548D18A6E3251BF96');
COMMIT;
