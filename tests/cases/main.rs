//! The one integration binary: each further one would be another slow link against libtorch.

#![expect(clippy::unwrap_used, reason = "a case that cannot go on fails there and says where")]

mod apart;
mod backbone_contract;
mod bad_input;
mod broken_images;
mod coco_eval;
mod coco_stuff;
mod corrupt_rows;
mod datasets;
mod detection;
mod detection_program;
mod detector;
mod detector_start;
mod detector_times;
mod detector_training;
mod doctor;
mod drawn_coco;
mod drawn_store;
mod drawn_tensor;
mod extraction;
mod flipped_bits;
mod golden_store;
mod heads;
mod interop;
mod kill;
mod loader;
mod masks;
mod mean_iou;
mod object_store;
mod peers;
mod pictures;
mod pixels;
mod program;
mod progress_line;
mod projected;
mod roi_align_times;
mod run_folder;
mod scenes;
mod slips;
mod stages;
mod swin_v2;
mod training;
mod weights;
mod worker;
mod written_store;
