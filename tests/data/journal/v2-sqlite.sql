-- The journal's schema of version 2, as it stood in commit 761793c, and what that version made of the journal of
-- version 1 beside this one, with a scheduled and then cancelled campaign more. Numbers and texts are made up.

CREATE TABLE schema_version (
	version INTEGER NOT NULL,
	CONSTRAINT pk_schema_version PRIMARY KEY (version)
);

CREATE TABLE campaign (
	id INTEGER NOT NULL,
	account VARCHAR(32) NOT NULL,
	name VARCHAR(200) NOT NULL,
	created_at BIGINT NOT NULL,
	originator VARCHAR(64),
	deliver_at BIGINT,
	source TEXT NOT NULL,
	cancelled_at BIGINT,
	CONSTRAINT pk_campaign PRIMARY KEY (id),
	CONSTRAINT uq_campaign_account_name UNIQUE (account, name),
	CONSTRAINT ck_campaign_name CHECK (length(name) > 0)
);

CREATE TABLE text (
	id INTEGER NOT NULL,
	digest BLOB NOT NULL,
	body TEXT NOT NULL,
	encoding VARCHAR(5) NOT NULL,
	segments SMALLINT NOT NULL,
	CONSTRAINT pk_text PRIMARY KEY (id),
	CONSTRAINT ck_text_encoding CHECK (encoding IN ('GSM-7', 'UCS-2')),
	CONSTRAINT ck_text_segments CHECK (segments > 0),
	CONSTRAINT uq_text_digest UNIQUE (digest)
);

CREATE TABLE collected (
	id INTEGER NOT NULL,
	account VARCHAR(32) NOT NULL,
	collected_at BIGINT NOT NULL,
	raw BLOB NOT NULL,
	CONSTRAINT pk_collected PRIMARY KEY (id)
);

CREATE TABLE run (
	id INTEGER NOT NULL,
	campaign_id INTEGER NOT NULL,
	started_at BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	ended_at BIGINT,
	CONSTRAINT pk_run PRIMARY KEY (id),
	CONSTRAINT fk_run_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaign (id)
);

CREATE INDEX ix_run_campaign_id ON run (campaign_id);

CREATE TABLE batch (
	id INTEGER NOT NULL,
	campaign_id INTEGER NOT NULL,
	run_id INTEGER,
	text_id INTEGER NOT NULL,
	originator VARCHAR(64),
	deliver_at BIGINT,
	state VARCHAR(9) NOT NULL,
	claimed_at BIGINT,
	settled_at BIGINT,
	message_id VARCHAR(40),
	code INTEGER,
	reason VARCHAR(40),
	final_at BIGINT,
	doubted_at BIGINT,
	believed_at BIGINT,
	size INTEGER NOT NULL,
	delivered INTEGER DEFAULT '0' NOT NULL,
	CONSTRAINT pk_batch PRIMARY KEY (id),
	CONSTRAINT ck_batch_state CHECK (state IN ('planned', 'sending', 'accepted', 'rejected', 'in_doubt', 'released', 'split', 'assumed', 'cancelled')),
	CONSTRAINT ck_batch_accepted_has_id CHECK ((state IN ('accepted', 'cancelled')) = (message_id IS NOT NULL)),
	CONSTRAINT ck_batch_planned_is_nobodys CHECK ((state = 'planned') = (run_id IS NULL)),
	CONSTRAINT ck_batch_claimed CHECK ((run_id IS NULL) = (claimed_at IS NULL)),
	CONSTRAINT ck_batch_settled CHECK ((state IN ('planned', 'sending')) = (settled_at IS NULL)),
	CONSTRAINT ck_batch_rejected_has_code CHECK (state <> 'rejected' OR code IS NOT NULL),
	CONSTRAINT ck_batch_in_doubt_has_reason CHECK (state <> 'in_doubt' OR reason IS NOT NULL),
	CONSTRAINT fk_batch_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaign (id),
	CONSTRAINT fk_batch_run_id FOREIGN KEY(run_id) REFERENCES run (id),
	CONSTRAINT fk_batch_text_id FOREIGN KEY(text_id) REFERENCES text (id)
);

CREATE UNIQUE INDEX ix_batch_message_id ON batch (campaign_id, message_id);

CREATE INDEX ix_batch_state ON batch (campaign_id, state, id);

CREATE TABLE message (
	id INTEGER NOT NULL,
	campaign_id INTEGER NOT NULL,
	"row" BIGINT NOT NULL,
	msisdn VARCHAR(15) NOT NULL,
	text_id INTEGER NOT NULL,
	batch_id INTEGER,
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

CREATE INDEX ix_message_planned ON message (campaign_id, text_id, id) WHERE batch_id IS NULL;

CREATE INDEX ix_message_batch ON message (batch_id);

CREATE TABLE ghost (
	batch_id INTEGER NOT NULL,
	msisdn VARCHAR(15) NOT NULL,
	CONSTRAINT pk_ghost PRIMARY KEY (batch_id, msisdn),
	CONSTRAINT fk_ghost_batch_id FOREIGN KEY(batch_id) REFERENCES batch (id)
);

CREATE TRIGGER batch_transition BEFORE UPDATE OF state ON batch FOR EACH ROW WHEN NEW.state <> OLD.state AND NOT ((OLD.state = 'planned' AND NEW.state IN ('sending')) OR (OLD.state = 'sending' AND NEW.state IN ('accepted', 'rejected', 'in_doubt', 'released', 'split')) OR (OLD.state = 'in_doubt' AND NEW.state IN ('accepted', 'rejected', 'released', 'assumed')) OR (OLD.state = 'accepted' AND NEW.state IN ('in_doubt', 'cancelled'))) BEGIN SELECT RAISE(ABORT, 'journal rule: a batch cannot change from one state to another so'); END;

CREATE TRIGGER message_claim BEFORE UPDATE OF batch_id ON message FOR EACH ROW WHEN OLD.batch_id IS NOT NULL AND (SELECT state FROM batch WHERE id = OLD.batch_id) NOT IN ('planned', 'released', 'split') BEGIN SELECT RAISE(ABORT, 'journal rule: a message cannot leave a batch that may have sent it'); END;

CREATE TRIGGER message_delete BEFORE DELETE ON message FOR EACH ROW WHEN OLD.batch_id IS NOT NULL AND (SELECT state FROM batch WHERE id = OLD.batch_id) <> 'planned' BEGIN SELECT RAISE(ABORT, 'journal rule: a message that was claimed is not forgotten'); END;

INSERT INTO schema_version (version) VALUES
	(2);

INSERT INTO campaign (id, account, name, created_at, originator, deliver_at, source, cancelled_at) VALUES
	(1, '0123456789abcdef0123456789abcdef', 'autumn', 1900000000000000, 'Shop', 1900003600000000, 'people.csv', NULL),
	(2, '0123456789abcdef0123456789abcdef', 'winter', 1900000000000001, NULL, NULL, 'others.csv', NULL),
	(3, '0123456789abcdef0123456789abcdef', 'spring', 1900000060000001, NULL, 1900007200000000, 'some.csv', 1900000060000012);

INSERT INTO text (id, digest, body, encoding, segments) VALUES
	(1, X'a85e3ed4fb5f62df7a1cf7f12e185214', 'Hello one', 'GSM-7', 1),
	(2, X'6f1c0b3a697dcfe85db908de100a17d4', 'Hello two', 'GSM-7', 1),
	(3, X'29979987ce04c23e45187b570a98d93d', 'Hej å €', 'GSM-7', 1),
	(4, X'2327d8587b7778ec55bd18ebdccab054', 'Hello three', 'GSM-7', 1);

INSERT INTO run (id, campaign_id, started_at, lease_until, ended_at) VALUES
	(1, 1, 1900000000000000, 1900000060000000, 1900000030000000),
	(2, 1, 1900000040000000, 1900000100000000, NULL),
	(3, 2, 1900000000000002, 1900000060000000, 1900000030000000),
	(4, 3, 1900000060000002, 1900000120000002, 1900000060000011);

INSERT INTO batch (id, campaign_id, run_id, text_id, originator, deliver_at, state, claimed_at, settled_at, message_id, code, reason, final_at, doubted_at, believed_at, size, delivered) VALUES
	(1, 1, 1, 1, 'Shop', 1900003600000000, 'accepted', 1900000000000001, 1900000000001000, '901', NULL, NULL, 1900000009000000, NULL, NULL, 2, 2),
	(2, 1, 1, 2, 'Shop', 1900003600000000, 'accepted', 1900000000000002, 1900000000001100, '902', NULL, NULL, NULL, NULL, NULL, 1, 0),
	(3, 1, 1, 1, 'Shop', 1900003600000000, 'rejected', 1900000000000003, 1900000000001200, NULL, 11, NULL, NULL, NULL, NULL, 1, 0),
	(4, 1, 1, 2, 'Shop', 1900003600000000, 'in_doubt', 1900000000000004, 1900000000001300, NULL, NULL, 'timeout', NULL, 1900000000001300, NULL, 1, 0),
	(5, 1, 1, 1, 'Shop', 1900003600000000, 'released', 1900000000000005, 1900000000001400, NULL, NULL, 'not-reached', NULL, NULL, NULL, 0, 0),
	(6, 1, 1, 2, 'Shop', 1900003600000000, 'split', 1900000000000006, 1900000000001500, NULL, 28, NULL, NULL, NULL, NULL, 0, 0),
	(7, 1, 2, 2, 'Shop', 1900003600000000, 'sending', 1900000000000007, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2, 0),
	(8, 1, 2, 3, 'Shop', 1900003600000000, 'in_doubt', 1900000000000008, 1900000000001600, NULL, NULL, 'id-seen-before', NULL, 1900000000001600, NULL, 1, 1),
	(9, 2, 3, 3, NULL, NULL, 'accepted', 1900000000000009, 1900000000001700, '901', NULL, NULL, NULL, NULL, NULL, 1, 0),
	(10, 3, 4, 4, NULL, 1900007200000000, 'accepted', 1900000060000003, 1900000060000004, '911', NULL, NULL, NULL, NULL, 1900000060000007, 2, 1),
	(11, 3, 4, 4, NULL, 1900007200000000, 'released', 1900000060000003, 1900000060000009, NULL, NULL, 'absent', NULL, 1900000060000005, NULL, 2, 0),
	(12, 3, 4, 4, NULL, 1900007200000000, 'cancelled', 1900000060000003, 1900000060000010, '912', NULL, NULL, 1900000060000010, NULL, NULL, 2, 0),
	(13, 3, NULL, 4, NULL, NULL, 'planned', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 0);

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
	(11, 2, 3, '46701740606', 3, NULL, NULL, NULL, NULL),
	(12, 3, 2, '46701740610', 4, 10, 'delivered', 1900000000000000, 1900000060000000),
	(13, 3, 3, '46701740611', 4, 10, NULL, NULL, NULL),
	(14, 3, 4, '46701740612', 4, NULL, NULL, NULL, NULL),
	(15, 3, 5, '46701740613', 4, NULL, NULL, NULL, NULL),
	(16, 3, 6, '46701740614', 4, 12, NULL, NULL, NULL),
	(17, 3, 7, '46701740615', 4, 12, NULL, NULL, NULL),
	(18, 3, 8, '46701740616', 4, 13, NULL, NULL, NULL);

INSERT INTO ghost (batch_id, msisdn) VALUES
	(11, '46701740612'),
	(11, '46701740613');

INSERT INTO collected (id, account, collected_at, raw) VALUES
	(1, '0123456789abcdef0123456789abcdef', 1900000060000013, X'410a3b3b300939313109350934363730313734303631300964656c69766572656409323033302d30332d31372031383a34370a');
