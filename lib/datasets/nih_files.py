"""Out: the files of NIH ChestX-ray14 as the NIH Clinical Center publishes them.

The archives' addresses are those of the NIH's own batch_download_zips.py, their MD5 those of its
FAQ_CHESTXRAY.pdf (question 7), both in the folder PAGE. Box states sizes and the ids of files; the
SHA-256 of the tables are of that folder's files, and the same in independent copies of the lists.
"""

from lib.datasets.fetch import PublishedFile

PAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
_ARCHIVES_PAGE = f"{PAGE}/folder/37178474737"
_SHARED = "https://nihcc.box.com/shared/static/{}.gz"
_IN_FOLDER = (
    "https://nihcc.app.box.com/index.php?rm=box_download_shared_file"
    "&vanity_name=ChestXray-NIHCC&file_id=f_{}"
)

# name, id of the file, bytes, SHA-256
_TABLES = (
    ("Data_Entry_2017_v2020.csv", "219760887468", 9_003_496,
     "c69a6daca3549af707ca9cacbdf9f9a7b6a9188e8c61157df653520bb72d8eb1"),
    ("train_val_list.txt", "256056636701", 1_470_907,
     "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81"),
    ("test_list.txt", "256055473534", 435_131,
     "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc"),
    ("BBox_List_2017.csv", "219760940956", 92_416,
     "0bbfea9d4c4e9771481b3023b1bc9f0df9dea924453b12986beb29b0c4d0c95b"),
    ("FAQ_CHESTXRAY.pdf", "249502714403", 72_223,
     "674665256e6a14c8ebaa93648f438c2b4ca21205167839559bab3ecc89b6b83a"),
)  # fmt: skip

# number, address, bytes, images, MD5
_ARCHIVES = (
    (1, "vfk49d74nhbxq3nqjg0900w5nvkorp5c", 2_008_470_987, 4_999, "fe8ed0a6961412fddcbb3603c11b3698"),
    (2, "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", 3_952_623_504, 10_000, "ab07a2d7cbe6f65ddd97b4ed7bde10bf"),
    (3, "f1t00wrtdk94satdfb9olcolqx20z2jp", 3_929_234_850, 10_000, "2301d03bde4c246388bad3876965d574"),
    (4, "0aowwzs5lhjrceb3qp67ahp0rd1l1etg", 3_838_903_983, 10_000, "9f1b7f5aae01b13f4bc8e2c44a4b8ef6"),
    (5, "v5e3goj22zr6h8tzualxfsqlqaygfbsn", 3_935_496_531, 10_000, "1861f3cd0ef7734df8104f2b0309023b"),
    (6, "asi7ikud9jwnkrnkj99jnpfkjdes7l6l", 3_986_301_172, 10_000, "456b53a8b351afd92a35bc41444c58c8"),
    (7, "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", 4_016_328_426, 10_000, "1075121ea20a137b87f290d6a4a5965e"),
    (8, "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", 4_018_347_353, 10_000, "b61f34cec3aa69f295fbb593cbd9d443"),
    (9, "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", 4_111_327_929, 10_000, "442a3caa61ae9b64e61c561294d1e183"),
    (10, "l6nilvfa9cg3s28tqv1qc1olm3gnz54p", 4_181_556_296, 10_000, "09ec81c4c31e32858ad8cf965c494b74"),
    (11, "hhq8fkdgvcari67vfhs7ppg2w6ni4jze", 4_187_084_020, 10_000, "499aefc67207a5a97692424cf5dbeed5"),
    (12, "ioqwiy20ihqwyr8pf4c24eazhh281pbu", 2_914_187_733, 7_121, "dc9fda1757c2de0032b63347a7d2895c"),
)  # fmt: skip

TABLES = tuple(
    PublishedFile(name, _IN_FOLDER.format(file), size, f"sha256:{digest}", f"{PAGE}/file/{file}")
    for name, file, size, digest in _TABLES
)
"""The table of images, the official lists, the boxes, and the NIH's answers to questions."""

ARCHIVES = tuple(
    PublishedFile(
        f"images_{number:03d}.tar.gz",
        _SHARED.format(link),
        size,
        f"md5:{md5}",
        _ARCHIVES_PAGE,
        images,
    )
    for number, link, size, images, md5 in _ARCHIVES
)
"""The 112,120 images, 45 GB in all."""
