"""Wrong input: keys and values of a job, each alone and where they contradict one another."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from tests.integration.wrong_input.desk import SECRET, Case, Desk, sample, table, train


def value(override: str, *says: str, name: str = "") -> Case:
    """A job that is right but for one setting, which the message names."""
    key = override.partition("=")[0]
    return Case(name or override, train(override), [key, *says])


def rewritten(old: str, new: str) -> Callable[[Desk], None]:
    def mishap(desk: Desk) -> None:
        text = desk.path("job.yaml").read_text()
        assert old in text
        desk.write("job.yaml", text.replace(old, new, 1))

    return mishap


def without_rewards(desk: Desk) -> None:
    tree = yaml.safe_load(desk.path("job.yaml").read_text())
    del tree["rewards"]
    desk.write("job.yaml", yaml.safe_dump(tree))


@table(
    Case("unknown section", train("trian.iterations=3"), ["'trian'", "did you mean 'train'"]),
    Case("unknown top key", train(), ["'rewrads'", "did you mean 'rewards'"], rewritten("rewards:", "rewrads:")),
    Case("unknown key in train", train("train.iteratoins=3"), ["did you mean 'train.iterations'"]),
    Case("unknown key in policy", train("policy.guidance=3"), ["did you mean 'policy.guidance_scale'"]),
    Case("unknown key in adapter", train("adapter.rnak=4"), ["did you mean 'adapter.rank'"]),
    Case("unknown key in model", train("model.nmae=mdm"), ["did you mean 'model.name'"]),
    Case("unknown key in algorithm", train("algorithm.clip_rang=1"), ["did you mean 'algorithm.clip_range'"]),
    Case("unknown key in runtime", train("runtime.rolout_workers=2"), ["did you mean 'runtime.rollout_workers'"]),
    Case("unknown key in tracking", train("tracking.mlflow_url=x"), ["did you mean 'tracking.mlflow_uri'"]),
    Case("unknown key in evaluation", train("evaluation.promts=8"), ["did you mean 'evaluation.prompts'"]),
    Case("unknown key in sentinels", train("sentinels.band=2"), ["did you mean 'sentinels.bands'"]),
    Case("unknown key in prompts", train("prompts.lenght=40"), ["'prompts.lenght'", "default_length"]),
    Case("unknown key in a reward", train("rewards.0.wieght=2"), ["did you mean 'rewards.0.weight'"]),
    Case("a key in the wrong place", train("learning_rate=1e-3"), ["did you mean 'train.learning_rate'"]),
    Case("a key like no other", train("xyzzy=1"), ["'xyzzy'", "want one of"]),
    Case("an unknown key of 5000 letters", train(f"{'x' * 5000}=1"), ["unknown key"]),
    Case("a key with a newline", train("tra\nin.seed=1"), ["unknown key"]),
    Case("a key that is a number", train(), ["3"], lambda d: d.write("job.yaml", "name: a\n3: 4\n")),
    Case("a key that is null", train(), ["None"], lambda d: d.write("job.yaml", "name: a\n~: 4\n")),
)
def test_unknown_keys_name_the_nearest(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


@table(
    value("train.learning_rate=.nan", "got nan", "finite"),
    value("train.learning_rate=.inf", "inf"),
    value("train.learning_rate=-1e-3", "-1e-3", "greater than 0"),
    value("train.learning_rate=0", "greater than 0"),
    value("train.learning_rate=fast", "'fast'", "number"),
    value("train.learning_rate=true", "True"),
    value("train.learning_rate=", "None"),
    value("train.learning_rate=1e-400", "greater than 0"),
    value("train.iterations=0", "greater than or equal to 1"),
    value("train.iterations=-3", "-3"),
    value("train.iterations=2.5", "2.5"),
    value("train.iterations=1e999", "1e999", "integer"),
    value("train.iterations=true", "True"),
    value("train.samples_per_prompt=0", "greater than or equal to 2", name="zero samples"),
    value("train.samples_per_prompt=1", "greater than or equal to 2"),
    value("train.samples_per_prompt=999999999999", "less than or equal to 1000", name="too many samples"),
    value("train.iterations=9999999999", "less than or equal to 1000000", name="too many iterations"),
    value("train.prompts_per_iteration=9999999999", "less than or equal to 100000", name="too many prompts"),
    value("train.prompts_per_unit=9999999999", "less than or equal to 1000", name="too large a unit"),
    value("train.units_per_step=9999999999", "less than or equal to 100000", name="too large a step"),
    value("prompts.default_length=9999999999", "less than or equal to 100000", name="too long a motion"),
    value("algorithm.inner_epochs=9999999999", "less than or equal to 1000", name="too many epochs"),
    value("algorithm.transitions=9999999999", "less than or equal to 1000", name="too many transitions"),
    value("algorithm.advantage_buffer_size=9999999999", "less than or equal to 100000", name="too large a buffer"),
    value("runtime.keep_commits=9999999999", "less than or equal to 1000000", name="too many commits"),
    value("evaluation.prompts=9999999999", "less than or equal to 100000", name="too many prompts of evaluation"),
    value("evaluation.samples_per_prompt=9999999999", "less than or equal to 1000", name="too many of evaluation"),
    value("evaluation.page_prompts=9999999999", "less than or equal to 1000", name="too long a page"),
    value("train.prompts_per_iteration=0", "0"),
    value("train.prompts_per_unit=0", "0"),
    value("train.units_per_step=0", "0"),
    value("train.units_per_step=[4]", "[4]"),
    value("train.seed=-1", "-1"),
    value("train.seed=soon", "'soon'"),
    value(f"train.seed={10**30}", "1000000"),
    value("train.max_grad_norm=.nan", "nan"),
    value("train.max_grad_norm=0", "greater than 0"),
    value("train.adam_beta2=1", "less than 1"),
    value("train.adam_beta2=.nan", "nan"),
    value("train.ema_decay=1.5", "less than 1"),
    value("rewards.0.weight=1e39", "less than or equal to 1000000"),
    value("rewards.0.weight=-1e39", "greater than or equal to -1000000"),
    value("prompts.sources={prompts.txt: 1e308}", "less than or equal to 1000000"),
    value("policy.landing=1e-9", "between 0.001 and 1"),
    value("adapter.rank=0", "0"),
    value("adapter.rank=four", "'four'"),
    value(f"adapter.rank={10**9}", "1000000000"),
    value("adapter.alpha=.inf", "inf"),
    value("adapter.alpha=-1", "-1"),
    value("adapter.targets=[]", "attention"),
    value("adapter.targets=[attention, mpl]", "'mpl'", "did you mean 'mlp'"),
    value("adapter.targets=attention", "attention"),
    value("policy.steps=0", "0"),
    value("policy.steps=1", "no stochastic transition"),
    value("policy.steps=51", "51"),
    value(f"policy.steps={10**10}", "less than or equal to 1000", name="too many steps"),
    value("policy.order=3", "1 or 2"),
    value("policy.solver_type=huen", "'huen'", "did you mean 'heun'"),
    value("policy.spacing=trailling", "did you mean 'trailing'"),
    value("policy.spacing=leading", "'leading'", "'trailing'"),
    value("policy.guidance_scale=.nan", "nan"),
    value("policy.guidance_scale=-1", "-1"),
    value("policy.last_step=frozn", "did you mean 'frozen'"),
    value("policy.landing=1.5", "sigma between 0"),
    value("policy.landing=0", "sigma between 0"),
    value("policy.landing=.nan", "nan"),
    value("policy.log_prob=average", "'mean'"),
    value("algorithm.name=dppo", "did you mean 'ddpo'"),
    value("algorithm.clip_range=0", "greater than 0"),
    value("algorithm.clip_range=.nan", "nan"),
    value("algorithm.kl_weight=.inf", "inf"),
    value("algorithm.kl_target=0", "greater than 0"),
    value("algorithm.inner_epochs=0", "0"),
    value("algorithm.transitions=0", "0"),
    value("algorithm.transitions=99", "99"),
    value("algorithm.advantages=leave_one", "did you mean 'leave_one_out'"),
    value("algorithm.advantage_clip=.nan", "nan"),
    value("algorithm.advantage_floor=-1", "-1"),
    value("algorithm.advantage_shrinkage=.nan", "nan"),
    value("algorithm.balance=snrr", "did you mean 'snr'"),
    value("evaluation.prompts=0", "0"),
    value("evaluation.samples_per_prompt=0", "0"),
    value("evaluation.guidance_scale=.nan", "nan"),
    value("evaluation.validate_every=0", "0"),
    value("evaluation.validation_prompts=0", "0"),
    value("train.publish=first", "'first'", "'last' or 'best'"),
    value("train.publish=best", "evaluation.validate_every=null"),
    value("prompts.validation={target/val: 0}", "0"),
    value("runtime.commits_uri=3", "3"),
    value("runtime.commits_uri=runs/commits", "s3://bucket/folder"),
    value("runtime.commits_uri=s4://bucket/folder", "'s3'"),
    value("runtime.commits_uri=file:///gone/mnt", "/gone/mnt", "mount it"),
    Case(
        "a key in the URI of a store",
        train(f"runtime.commits_uri=s3://key:{SECRET}@b/f"),
        ["runtime.commits_uri", "AWS_SECRET_ACCESS_KEY"],
    ),
    Case(
        "a key in the query of a store",
        train(f"runtime.commits_uri=s3://b/f?secret_key={SECRET}"),
        ["runtime.commits_uri", "AWS_SECRET_ACCESS_KEY"],
    ),
    value("runtime.backend=slurm", "'slurm'", "'local' or 'ray'"),
    value("runtime.threads=0", "0"),
    value("runtime.threads=-2", "-2"),
    value(f"runtime.threads={10**7}", "10000000"),
    value("runtime.rollout_workers=0", "0"),
    value("runtime.keep_commits=0", "0"),
    value("name=../up", "'../up'"),
    value("name=", "None"),
    value(f"name={'n' * 300}", "{0,63}", name="a name of 300 letters"),
    value("model=mdm", "'mdm'"),
    value("train=[1, 2]", "[1, 2]"),
    value("rewards=jerk", "'jerk'"),
    value("prompts.sources=prompts.txt", "'prompts.txt'"),
    value("prompts.sources={prompts.txt: 0}", "prompts.txt", "greater than 0"),
    value("prompts.sources={prompts.txt: .nan}", "nan"),
    value("prompts.sources={prompts.txt: true}", "True"),
    value("prompts.default_length=0", "0"),
    value("tracking.mlflow_uri=3", "3"),
)
def test_values_are_refused_by_name(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


@table(
    Case("unknown reward", train("rewards.0.name=jrek"), ["'jrek'", "did you mean 'jerk'"]),
    Case("unknown model", train("model.name=mdm-embeded"), ["'mdm-embeded'", "did you mean 'mdm-embedded'"]),
    Case("unknown model of sample", sample("--model", "mdm-embeded"), ["did you mean 'mdm-embedded'"]),
    Case("a reward's model", train("model.name=tmr-embedded"), ["'tmr-embedded'", "mdm-embedded"]),
    Case(
        "unknown prompt source",
        train("prompts.sources={target/trian: 1}"),
        ["'target/trian'", "did you mean 'target/train'"],
    ),
    Case("a test split", train("prompts.sources={target/test: 1}"), ["'target/test'", "use target/train"]),
    Case("no prompt source", train("prompts.sources={}"), ["prompts.sources"]),
    Case("a reward twice", train("rewards=[{name: jerk}, {name: jerk}]"), ["'jerk' 2 times"]),
    Case("no reward", train("rewards=[]"), ["no reward"]),
    Case("a reward's weight NaN", train("rewards.0.weight=.nan"), ["rewards.0.weight", "nan"]),
    Case("all weights 0", train("rewards.0.weight=0"), ["weight 0", "'jerk'"]),
    Case("beyond the default rewards", train("rewards.9.weight=2"), ["below 1", "'rewards'"], without_rewards),
    Case("a misspelt default reward", train("rewards.0.name=jrek"), ["did you mean 'jerk'"], without_rewards),
    Case("units that do not divide", train("train.prompts_per_unit=3"), ["prompts_per_unit=3", "divides"]),
    Case("more prompts than there are", train("train.prompts_per_iteration=99"), ["6 different prompts", "99"]),
    Case("karras on a cosine schedule", train("policy.spacing=karras", "policy.steps=10"), ["karras"]),
    Case("a KL target without weight", train("algorithm.kl_target=0.1"), ["kl_target=0.1", "kl_weight"]),
    Case("a buffer that is too small", train("algorithm.advantage_min_count=17"), ["advantage_min_count=17"]),
    Case(
        "shrinkage without a std",
        train("algorithm.advantages=leave_one_out", "algorithm.advantage_shrinkage=0.5"),
        ["advantage_shrinkage=0.5"],
    ),
    Case("a contrast in units of one", train("rewards=[{name: tmr_contrastive}]"), ["prompts_per_unit=1"]),
    Case(
        "a contrast that leaves one alone in evaluation",
        train("rewards=[{name: tmr_contrastive}]", "train.prompts_per_unit=2", "evaluation.prompts=5"),
        ["evaluation.prompts=5"],
    ),
    Case("a password in a URI", train("tracking.mlflow_uri=http://me:pw@host/"), ["MLFLOW_TRACKING_PASSWORD"]),
    Case("a store of files", train("tracking.mlflow_uri=file:///tmp/x"), ["tracking.mlflow_uri", "sqlite"]),
    Case("a store of no kind", train("tracking.mlflow_uri=sqllite:///x.db"), ["did you mean 'sqlite'"]),
    Case("a store without a scheme", train("tracking.mlflow_uri=mlruns"), ["tracking.mlflow_uri", "a folder"]),
    Case("a store that is no URI", train("tracking.mlflow_uri='http://[::1'"), ["tracking.mlflow_uri"]),
    Case("a store without a host", train("tracking.mlflow_uri='http://'"), ["tracking.mlflow_uri", "no place"]),
)
def test_names_and_contradictions(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


URIS = {
    "the scheme forgotten": f"user:{SECRET}@host:5000",
    "one slash": f"https:/user:{SECRET}@host",
    "no slash": f"https:user:{SECRET}@host:5000",
    "three slashes": f"http:///user:{SECRET}@host",
    "no host": f"https://user:{SECRET}",
    "escaped": f"https://user:{SECRET}%40host",
    "the password of a database": f"mysql:///x?password={SECRET}",
    "user and password in a query": f"postgresql://h/db?user=a&password={SECRET}",
    "a token": f"https://host/?token={SECRET}",
    "a token as fragment": f"https://host/#access_token={SECRET}",
    "a connection string": f"mssql://h/db?odbc_connect=DRIVER%3DX%3BPWD%3D{SECRET}",
    "another scheme": f"ftp://{SECRET}",
}


@table(
    *(Case(name, train(f"tracking.mlflow_uri={uri}"), ["tracking.mlflow_uri"]) for name, uri in URIS.items()),
    *(
        Case(
            f"{name}, to be printed",
            ["config", "job.yaml", "--set", f"tracking.mlflow_uri={uri}"],
            ["tracking.mlflow_uri"],
        )
        for name, uri in URIS.items()
    ),
    Case("in a list", train(f"tracking.mlflow_uri=[https://u:{SECRET}@h]"), ["tracking.mlflow_uri"]),
    Case("in half a list", train(f"tracking.mlflow_uri=[https://u:{SECRET}@h"), ["tracking.mlflow_uri"]),
    Case("at a misspelt key", train(f"tracking.mlflow_url=https://u:{SECRET}@h"), ["'tracking.mlflow_uri'"]),
    Case("without its key", train(f"https://u:{SECRET}@h"), ["a.b=c"]),
    Case("below the key", train(f"tracking.mlflow_uri.x=https://u:{SECRET}@h"), ["tracking.mlflow_uri"]),
)
def test_no_password_of_a_uri_is_repeated(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)
