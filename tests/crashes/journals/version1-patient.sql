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
INSERT INTO "records" VALUES(1,0.0,0,'run','{"schema":1,"id":"983343e7ab694827be381e6b3aa8645e","settings":{"max_concurrent":3,"inbox_capacity":32,"budget":{"tokens":10000000,"cost_usd":null,"calls":null}},"about":{}}',X'CD7F000595DEFB1DB5403DC09C507DBB');
INSERT INTO "records" VALUES(2,0.0,1,'spawned','{"name":"mayor","parent":0,"by":0,"life":0,"key":null,"work":{"agent":{"function":"tests.crashes._cases:patient"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"mayor","timeout":null,"restart":null}]}}',X'0DB6089CAB17C199591E5A76193E3C6B');
INSERT INTO "records" VALUES(3,0.0,2,'spawned','{"name":"slow talker","parent":1,"by":1,"life":0,"key":"0","work":{"agent":{"function":"tests.crashes._cases:slow_talker"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"slow talker","timeout":null,"restart":null}]}}',X'7CC715EB8758C41D5A5BDFA3EEFE16EB');
INSERT INTO "records" VALUES(4,1.0,1,'operated','{"life":0,"key":"2","kind":"step note","value":"niav ni"}',X'19C3ED3FE6AB7A7D9037A2D61D8E28A3');
INSERT INTO "records" VALUES(5,10.0,1,'sent','{"id":1,"from":2,"content":"late","reply_to":null,"topic":null,"ask":false,"life":0,"key":"0"}',X'FA9F612BBCBBE641EAB7E073E007D7BE');
INSERT INTO "records" VALUES(6,10.0,1,'received','{"id":1,"life":0,"key":"3"}',X'B8FF4BAAA75ED15D9904B312F6FE3629');
INSERT INTO "records" VALUES(7,10.0,2,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":"told"}',X'0BB5606233591A523EF56105D054BD0C');
INSERT INTO "records" VALUES(8,10.0,1,'operated','{"life":0,"key":"4","kind":"wait","value":2}',X'7302410324DF7198F23F217F959E05A0');
INSERT INTO "records" VALUES(9,10.0,1,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":["niav ni","late","told"]}',X'59D2603B39263B66D65AA0B28745B882');
INSERT INTO "records" VALUES(10,10.0,0,'closed','{"how":"ended"}',X'0149754B2C32C0CB9F78BD2D9AEDDF89');
COMMIT;
