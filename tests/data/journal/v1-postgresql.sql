-- The journal's schema of version 1, as it stood in commit 24020e6, and a few messages in every state it had.
-- Two batches of campaign 1 were given the same id, which version 1 did not mind. Numbers and texts are made up.

CREATE TABLE schema_version (
	version INTEGER NOT NULL,
	CONSTRAINT pk_schema_version PRIMARY KEY (version)
);

CREATE TABLE campaign (
	id BIGSERIAL NOT NULL,
	account VARCHAR(32) NOT NULL,
	name VARCHAR(200) NOT NULL,
	created_at BIGINT NOT NULL,
	originator VARCHAR(64),
	deliver_at BIGINT,
	source TEXT NOT NULL,
	CONSTRAINT pk_campaign PRIMARY KEY (id),
	CONSTRAINT uq_campaign_account_name UNIQUE (account, name),
	CONSTRAINT ck_campaign_name CHECK (length(name) > 0)
);

CREATE TABLE text (
	id BIGSERIAL NOT NULL,
	digest BYTEA NOT NULL,
	body TEXT NOT NULL,
	encoding VARCHAR(5) NOT NULL,
	segments SMALLINT NOT NULL,
	CONSTRAINT pk_text PRIMARY KEY (id),
	CONSTRAINT ck_text_encoding CHECK (encoding IN ('GSM-7', 'UCS-2')),
	CONSTRAINT ck_text_segments CHECK (segments > 0),
	CONSTRAINT uq_text_digest UNIQUE (digest)
);

CREATE TABLE run (
	id BIGSERIAL NOT NULL,
	campaign_id BIGINT NOT NULL,
	started_at BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	ended_at BIGINT,
	CONSTRAINT pk_run PRIMARY KEY (id),
	CONSTRAINT fk_run_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaign (id)
);

CREATE INDEX ix_run_campaign_id ON run (campaign_id);

CREATE TABLE batch (
	id BIGSERIAL NOT NULL,
	campaign_id BIGINT NOT NULL,
	run_id BIGINT NOT NULL,
	text_id BIGINT NOT NULL,
	originator VARCHAR(64),
	deliver_at BIGINT,
	state VARCHAR(8) NOT NULL,
	claimed_at BIGINT NOT NULL,
	settled_at BIGINT,
	message_id VARCHAR(40),
	code INTEGER,
	reason VARCHAR(40),
	final_at BIGINT,
	CONSTRAINT pk_batch PRIMARY KEY (id),
	CONSTRAINT ck_batch_state CHECK (state IN ('sending', 'accepted', 'rejected', 'in_doubt', 'released', 'split')),
	CONSTRAINT ck_batch_accepted_has_id CHECK ((state = 'accepted') = (message_id IS NOT NULL)),
	CONSTRAINT ck_batch_settled CHECK ((state = 'sending') = (settled_at IS NULL)),
	CONSTRAINT ck_batch_rejected_has_code CHECK (state <> 'rejected' OR code IS NOT NULL),
	CONSTRAINT ck_batch_in_doubt_has_reason CHECK (state <> 'in_doubt' OR reason IS NOT NULL),
	CONSTRAINT fk_batch_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaign (id),
	CONSTRAINT fk_batch_run_id FOREIGN KEY(run_id) REFERENCES run (id),
	CONSTRAINT fk_batch_text_id FOREIGN KEY(text_id) REFERENCES text (id)
);

CREATE INDEX ix_batch_state ON batch (campaign_id, state, id);

CREATE TABLE message (
	id BIGSERIAL NOT NULL,
	campaign_id BIGINT NOT NULL,
	row BIGINT NOT NULL,
	msisdn VARCHAR(15) NOT NULL,
	text_id BIGINT NOT NULL,
	batch_id BIGINT,
	status VARCHAR(64),
	sent_at BIGINT,
	delivered_at BIGINT,
	CONSTRAINT pk_message PRIMARY KEY (id),
	CONSTRAINT uq_message_campaign_id_msisdn_text_id UNIQUE (campaign_id, msisdn, text_id),
	CONSTRAINT ck_message_msisdn CHECK (length(msisdn) BETWEEN 5 AND 15),
	CONSTRAINT fk_message_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaign (id),
	CONSTRAINT fk_message_text_id FOREIGN KEY(text_id) REFERENCES text (id),
	CONSTRAINT fk_message_batch_id FOREIGN KEY(batch_id) REFERENCES batch (id)
);

CREATE INDEX ix_message_batch ON message (batch_id);

CREATE INDEX ix_message_planned ON message (campaign_id, text_id, id) WHERE batch_id IS NULL;

INSERT INTO schema_version (version) VALUES (1);

INSERT INTO campaign (id, account, name, created_at, originator, deliver_at, source) VALUES
	(1, '0123456789abcdef0123456789abcdef', 'autumn', 1900000000000000, 'Shop', 1900003600000000, 'people.csv'),
	(2, '0123456789abcdef0123456789abcdef', 'winter', 1900000000000001, NULL, NULL, 'others.csv');

INSERT INTO text (id, digest, body, encoding, segments) VALUES
	(1, '\xa85e3ed4fb5f62df7a1cf7f12e185214', 'Hello one', 'GSM-7', 1),
	(2, '\x6f1c0b3a697dcfe85db908de100a17d4', 'Hello two', 'GSM-7', 1),
	(3, '\x29979987ce04c23e45187b570a98d93d', 'Hej å €', 'GSM-7', 1);

INSERT INTO run (id, campaign_id, started_at, lease_until, ended_at) VALUES
	(1, 1, 1900000000000000, 1900000060000000, 1900000030000000),
	(2, 1, 1900000040000000, 1900000100000000, NULL),
	(3, 2, 1900000000000002, 1900000060000000, 1900000030000000);

INSERT INTO batch (id, campaign_id, run_id, text_id, originator, deliver_at, state, claimed_at, settled_at, message_id, code, reason, final_at) VALUES
	(1, 1, 1, 1, 'Shop', 1900003600000000, 'accepted', 1900000000000001, 1900000000001000, '901', NULL, NULL, 1900000009000000),
	(2, 1, 1, 2, 'Shop', 1900003600000000, 'accepted', 1900000000000002, 1900000000001100, '902', NULL, NULL, NULL),
	(3, 1, 1, 1, 'Shop', 1900003600000000, 'rejected', 1900000000000003, 1900000000001200, NULL, 11, NULL, NULL),
	(4, 1, 1, 2, 'Shop', 1900003600000000, 'in_doubt', 1900000000000004, 1900000000001300, NULL, NULL, 'timeout', NULL),
	(5, 1, 1, 1, 'Shop', 1900003600000000, 'released', 1900000000000005, 1900000000001400, NULL, NULL, 'not-reached', NULL),
	(6, 1, 1, 2, 'Shop', 1900003600000000, 'split', 1900000000000006, 1900000000001500, NULL, 28, NULL, NULL),
	(7, 1, 2, 2, 'Shop', 1900003600000000, 'sending', 1900000000000007, NULL, NULL, NULL, NULL, NULL),
	(8, 1, 2, 3, 'Shop', 1900003600000000, 'accepted', 1900000000000008, 1900000000001600, '901', NULL, NULL, 1900000009000000),
	(9, 2, 3, 3, NULL, NULL, 'accepted', 1900000000000009, 1900000000001700, '901', NULL, NULL, NULL);

INSERT INTO message (id, campaign_id, "row", msisdn, text_id, batch_id, status, sent_at, delivered_at) VALUES
	(1, 1, 2, '46701740605', 1, 1, 'delivered', 1900000060000000, 1900000120000000),
	(2, 1, 3, '46701740606', 1, 1, 'delivered', 1900000060000000, 1900000120000000),
	(3, 1, 4, '46701740605', 2, 2, 'sent', 1900000060000000, NULL),
	(4, 1, 5, '46701740607', 1, 3, NULL, NULL, NULL),
	(5, 1, 6, '46701740606', 2, 4, NULL, NULL, NULL),
	(6, 1, 7, '46701740608', 1, NULL, NULL, NULL, NULL),
	(7, 1, 8, '46701740607', 2, 7, NULL, NULL, NULL),
	(8, 1, 9, '46701740608', 2, 7, NULL, NULL, NULL),
	(9, 1, 10, '46701740605', 3, 8, 'delivered', 1900000060000000, 1900000120000000),
	(10, 2, 2, '46701740605', 3, 9, NULL, NULL, NULL),
	(11, 2, 3, '46701740606', 3, NULL, NULL, NULL, NULL);

SELECT setval('campaign_id_seq', (SELECT max(id) FROM campaign));

SELECT setval('text_id_seq', (SELECT max(id) FROM text));

SELECT setval('run_id_seq', (SELECT max(id) FROM run));

SELECT setval('batch_id_seq', (SELECT max(id) FROM batch));

SELECT setval('message_id_seq', (SELECT max(id) FROM message));
