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
INSERT INTO "records" VALUES(1,0.0,0,'run','{"schema":1,"id":"ef04bbc8340d437baad955dc5a162578","settings":{"max_concurrent":3,"inbox_capacity":32,"budget":{"tokens":10000000,"cost_usd":null,"calls":null}},"about":{}}',X'341CF9B50586CCD6D1F4CB00D6B0B565');
INSERT INTO "records" VALUES(2,0.0,1,'spawned','{"name":"mayor","parent":0,"by":0,"life":0,"key":null,"work":{"agent":{"function":"tests.crashes._cases:patient"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"mayor","timeout":null,"restart":null}]}}',X'239B3CD0541F3C8BA655F45233A0FB96');
INSERT INTO "records" VALUES(3,0.0,2,'spawned','{"name":"slow talker","parent":1,"by":1,"life":0,"key":"0","work":{"agent":{"function":"tests.crashes._cases:slow_talker"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"slow talker","timeout":null,"restart":null}]}}',X'4067F338AD8473A4ED12B971F861154A');
INSERT INTO "records" VALUES(4,1.0,1,'operated','{"life":0,"key":"2","kind":"step note","value":"niav ni"}',X'33EB7DCEC805A521A0EC237617427862');
INSERT INTO "records" VALUES(5,10.0,1,'sent','{"id":1,"from":2,"content":"late","reply_to":null,"topic":null,"ask":false,"life":0,"key":"0"}',X'545B6537820CC5E96E0DC78123A5803E');
INSERT INTO "records" VALUES(6,10.0,1,'received','{"id":1,"life":0,"key":"3"}',X'D358E8E9B785B3F2DEDB16A09E6A56FC');
INSERT INTO "records" VALUES(7,10.0,2,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":"told"}',X'FD28D68A39B1E9BF8902BDDA31D19B63');
INSERT INTO "records" VALUES(8,10.0,1,'operated','{"life":0,"key":"4","kind":"wait","value":2}',X'A431DBCE8152B7777F1CF32D4B6C123C');
INSERT INTO "records" VALUES(9,10.0,1,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":["niav ni","late","told"]}',X'03A9081578FE8DB7F992E93804952657');
INSERT INTO "records" VALUES(10,10.0,0,'closed','{"how":"ended"}',X'83CA3C4E3426A062E909AD4544AFCD39');
COMMIT;
