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
INSERT INTO "records" VALUES(1,0.0,0,'run','{"schema":1,"id":"23ac70328095418ea41b225a9a6f9599","settings":{"max_concurrent":3,"inbox_capacity":32,"budget":{"tokens":10000000,"cost_usd":null,"calls":null}},"about":{}}',X'C292E1AC9FEE32B98BE8D9360A44C46F');
INSERT INTO "records" VALUES(2,0.0,1,'spawned','{"name":"mayor","parent":0,"by":0,"life":0,"key":null,"work":{"agent":{"function":"tests.crashes._cases:patient"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"mayor","timeout":null,"restart":null}]}}',X'7D42B189C0E517F0E11A2A1F0EADA046');
INSERT INTO "records" VALUES(3,0.0,2,'spawned','{"name":"slow talker","parent":1,"by":1,"life":0,"key":"0","work":{"agent":{"function":"tests.crashes._cases:slow_talker"},"args":{"$tuple":[]}},"options":{"$object":["agentpool._kernel.options:SpawnOptions",{"name":"slow talker","timeout":null,"restart":null}]}}',X'A2154C3DEF333322AD4E6A8E8BAB40D2');
INSERT INTO "records" VALUES(4,1.0,1,'operated','{"life":0,"key":"2","kind":"step note","value":"niav ni"}',X'97E94B40602A7E25323B1853FA8C5B05');
INSERT INTO "records" VALUES(5,10.0,1,'sent','{"id":1,"from":2,"content":"late","reply_to":null,"topic":null,"ask":false,"life":0,"key":"0"}',X'186B4F86A2F3BE7D5BDEAAC892DF9CBE');
INSERT INTO "records" VALUES(6,10.0,1,'received','{"id":1,"life":0,"key":"3"}',X'9C6124989C838AF3A5F5DB9F11008E2A');
INSERT INTO "records" VALUES(7,10.0,2,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":"told"}',X'41DEE4CA1161F7FFC9D92BD093DEF0A8');
INSERT INTO "records" VALUES(8,10.0,1,'operated','{"life":0,"key":"4","kind":"wait","value":2}',X'3AEBA1192E22035F7D8F081D3727D48F');
INSERT INTO "records" VALUES(9,10.0,1,'ended','{"duration":10.0,"restarts":0,"usage":{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost_usd":0.0,"cache_write_1h_tokens":0},"value":["niav ni","late","told"]}',X'5B4CEF2DF1F7E3F0B724D15DB998F516');
INSERT INTO "records" VALUES(10,10.0,0,'closed','{"how":"ended"}',X'A6054DADF7085538703A268617AD435F');
COMMIT;
